// The tensor cores' instructions, from the PTX ISA's tables of fragments and not from those that the kernels
// are written by: a fragment that is transposed or misplaced there shows here. All 32 lanes must come. A sum
// is exact until it is rounded to fp32 once, which no hardware does (its order and rounding are its own).
#pragma once

inline uint32_t emulated_word(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float emulated_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// bits of fp32 whose last `drop` are rounded away; ties go away from 0, or to the even one.
inline uint32_t emulated_round(float x, int drop, bool ties_away) {
    const uint32_t bits = emulated_word(x), half = 1u << (drop - 1), below = (1u << drop) - 1;
    if (x != x) return 0x7fffffffu & ~below;
    if (std::isinf(x)) return bits;
    const uint32_t up = ties_away || (bits & below) > half || (bits >> drop & 1) ? half : half - 1;
    return (bits + up) & ~below;
}
inline uint32_t tf32_of(float x) { return emulated_round(x, 13, true); }

inline uint32_t emulated_bf16(float x) { return emulated_round(x, 16, false) >> 16; }
inline uint32_t bf16_pair(float first, float second) {
    return emulated_bf16(first) | emulated_bf16(second) << 16;
}

inline uint32_t emulated_f16(float x) {
    const uint32_t sign = emulated_word(x) >> 16 & 0x8000u;
    const float size = std::fabs(x);
    if (x != x) return 0x7fffu;
    if (size >= 65520.0f) return sign | 0x7c00u;
    if (size < 6.103515625e-5f)  // multiples of 2^-24; nearbyint rounds to even
        return sign | static_cast<uint32_t>(std::nearbyint(size * 16777216.0f));
    const uint32_t bits = emulated_round(size, 13, false);
    return sign | ((bits >> 13) - (112u << 10));
}
inline uint32_t f16_pair(float first, float second) {
    return emulated_f16(first) | emulated_f16(second) << 16;
}
inline float f16_value(uint32_t bits) {
    const uint32_t size = bits & 0x7fffu;
    float value = emulated_float((size << 13) + (112u << 23));
    if (size >= 0x7c00u) value = emulated_float(size << 13 | 0x7f800000u);
    if (size < 0x400u) value = static_cast<float>(size) / 16777216.0f;
    return bits & 0x8000u ? -value : value;
}

struct EmulatedFragments {
    uint32_t a[4], b[2];
};

// value(register, half) is the number that is there.
template <int kDepth, typename F>
void emulated_mma(const char* what, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  const F& value) {
    EmulatedFragments mine, all[32];
    memcpy(mine.a, a, sizeof a);
    memcpy(mine.b, b, sizeof b);
    emulation::warp_wait(what, kAllLanes, &mine, all, sizeof mine);
    const int lane = static_cast<int>(emulation::lane());
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
        double sum = d[i];
        for (int k = 0; k < kDepth; ++k) {
            // kDepth 8: registers of one number, k % 4 is the lane in its group; 16: of two, (k % 8) / 2 is.
            const int in_group = kDepth == 8 ? k % 4 : k % 8 / 2, second = k >= kDepth / 2, half = k % 2;
            const uint32_t left = all[row % 8 * 4 + in_group].a[(row >= 8) + 2 * second];
            const uint32_t right = all[column * 4 + in_group].b[second];
            sum += static_cast<double>(value(left, half)) * static_cast<double>(value(right, half));
        }
        d[i] = static_cast<float>(sum);
    }
}

inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    // Thirteen bits of an operand are not read.
    emulated_mma<8>("mma.m16n8k8.tf32", d, a, b,
                    [](uint32_t bits, int) { return emulated_float(bits & 0xffffe000u); });
}
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulated_mma<16>("mma.m16n8k16.bf16", d, a, b, [](uint32_t bits, int half) {
        return emulated_float(half ? bits & 0xffff0000u : bits << 16);
    });
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulated_mma<16>("mma.m16n8k16.f16", d, a, b,
                     [](uint32_t bits, int half) { return f16_value(half ? bits >> 16 : bits & 0xffffu); });
}

// Half types as memory holds them, 16 bits, to float and back: in integers, so that every device and every
// instruction set gives the same bits.
#pragma once

#include "common.h"
#include "names.h"

namespace mclnf {

MCLNF_HD MCLNF_INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
MCLNF_HD MCLNF_INLINE float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// The value of bits of kBf16 or kFp16.
template <int kHalf>
MCLNF_HD MCLNF_INLINE float from_half(uint16_t half) {
    static_assert(kHalf == kBf16 || kHalf == kFp16, "a half type");
    if (kHalf == kBf16) return float_of(static_cast<uint32_t>(half) << 16);
    const uint32_t exponent = half & 0x7c00u, magnitude = (half & 0x7fffu) << 13;
    // Subnormals have no leading one: with that of 2^-14 before them, which then is taken off.
    const float small = float_of(magnitude + (113u << 23)) - float_of(113u << 23);
    const uint32_t raised = magnitude + (exponent == 0x7c00u ? 224u << 23 : 112u << 23);
    return float_of((exponent == 0 ? bits_of(small) : raised) | (half & 0x8000u) << 16);
}

// To nearest, ties to even; NaN stays NaN.
template <int kHalf>
MCLNF_HD MCLNF_INLINE uint16_t to_half(float x) {
    static_assert(kHalf == kBf16 || kHalf == kFp16, "a half type");
    const uint32_t bits = bits_of(x), sign = bits & 0x80000000u, magnitude = bits ^ sign;
    if (kHalf == kBf16) {
        const uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
        return static_cast<uint16_t>((magnitude > 0x7f800000u ? bits | 0x400000u : rounded) >> 16);
    }
    // Below 2^-14 the addition of 1/2, whose last bit is 2^-24, rounds.
    const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t value = magnitude >= 143u << 23 ? large : magnitude < 113u << 23 ? small : normal;
    return static_cast<uint16_t>(value | sign >> 16);
}

}  // namespace mclnf

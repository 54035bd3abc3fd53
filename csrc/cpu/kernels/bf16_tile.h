// Pairs of bf16 and the products over them: acc += a0 b0 + a1 b1 on every 32-bit lane, accumulated in fp32.
//
// Included once per instruction set after bank_tile.h (no include guard, see simd.h), with 64-byte vectors. A
// panel (gemm_tile.h) holds rows 2k and 2k + 1 of a matrix as one row of 32-bit lanes, the even one in the
// lower half; an odd last row is paired with zeros. Pairs of rows, and not of points, because the reduction
// of a product runs over rows.

typedef int AnyPairs __attribute__((vector_size(MCLNF_VBYTES), aligned(4), may_alias));
typedef unsigned VU __attribute__((vector_size(MCLNF_VBYTES), may_alias));
typedef uint16_t VW __attribute__((vector_size(MCLNF_VBYTES), may_alias));

MCLNF_LANE VI pload(const uint32_t* p) { return *reinterpret_cast<const AnyPairs*>(p); }
MCLNF_LANE void pstore(uint32_t* p, VI v) { *reinterpret_cast<AnyPairs*>(p) = v; }
MCLNF_LANE VI pset(uint32_t x) { return (int)x - VI{}; }

// The two halves of every lane as floats.
MCLNF_LANE VF lower(VI pair) { return (VF)((VU)pair << 16); }
MCLNF_LANE VF upper(VI pair) { return (VF)((VU)pair & 0xffff0000u); }

#ifdef MCLNF_EMULATE
MCLNF_LANE VF flushed(VF x) {
    const VF least = vset<float>(1.17549435e-38f);  // 2^-126
    return (x < least) & (x > -least) ? VF{} : x;
}
MCLNF_LANE VU rounded(VF x) {
    const VU bits = (VU)x;
    return x != x ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
}
#endif

// acc + lower(a) lower(b) + upper(a) upper(b). vdpbf16ps as Intel's manual has it: two fused multiply-adds,
// the upper halves first, each rounded to nearest even; subnormal arguments and results are zero whatever the
// control register holds. Nothing here depends on the order, which another processor may change.
MCLNF_LANE VF vdot(VI a, VI b, VF acc) {
#ifdef MCLNF_EMULATE
    acc = flushed(vfma(flushed(upper(a)), flushed(upper(b)), flushed(acc)));
    return flushed(vfma(flushed(lower(a)), flushed(lower(b)), acc));
#else
    return (VF)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#endif
}

// Two rows rounded to nearest even and paired; NaN stays NaN.
MCLNF_LANE VI vpair(VF low, VF high) {
#ifdef MCLNF_EMULATE
    return (VI)(rounded(flushed(low)) >> 16 | (rounded(flushed(high)) & 0xffff0000u));
#else
    const VI lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const VI words = lane * 0x10001 + 0x100000;  // 0, 16, 1, 17, ...
    return (VI)_mm512_permutexvar_epi16((__m512i)words,
                                        (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
#endif
}

static inline int pairs_of(int rows) { return (rows + 1) / 2; }

// A matrix of a tile in pairs.
struct PairRows {
    static constexpr int L = Panel<float>::lanes;
    uint32_t* values = nullptr;
    int pairs = 0;

    PairRows() = default;
    PairRows(Arena<uint32_t>& memory, int rows, int panels)
        : values(memory.take((size_t)pairs_of(rows) * panels * L)), pairs(pairs_of(rows)) {}
    uint32_t* panel(int p) const { return values + (int64_t)p * pairs * L; }
};

// Rows of a panel -> pairs.
static void pair_rows(int rows, int nv, const float* in, uint32_t* out) {
    constexpr int L = Panel<float>::lanes, W = Simd<float>::width;
    for (int r = 0; r < rows; r += 2)
        for (int v = 0; v < nv; ++v) {
            const float* p = in + r * L + v * W;
            pstore(out + r / 2 * L + v * W, vpair(vload(p), r + 1 < rows ? vload(p + L) : VF{}));
        }
}

// d times the derivative of a relu whose values `mask` holds in pairs, or times the rows of `factor`.
static void times_derivative_of(int rows, int nv, const uint32_t* mask, const float* factor, float* d) {
    constexpr int L = Panel<float>::lanes, W = Simd<float>::width;
    const VF zero = {};
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < nv; ++v) {
            float* p = d + r * L + v * W;
            if (factor) {
                vstore(p, vload(p) * vload(factor + r * L + v * W));
            } else {
                const VI pair = pload(mask + r / 2 * L + v * W);
                vstore(p, (r % 2 ? upper(pair) : lower(pair)) > zero ? vload(p) : zero);
            }
        }
}

// The right factor of a product: `pairs` rows of a panel.
struct PairPanel {
    const uint32_t* values = nullptr;
    int pairs = 0;
    int vectors = 0;
};

// The destination of a product: fp32 rows, or pairs of rows, rounded. One of the two is null.
struct DotResult {
    float* rows = nullptr;
    uint32_t* pairs = nullptr;
    EpilogueKind epilogue = kStore;  // on the way into pairs: kStore, kRectify, kMask or kScale
    const uint32_t* mask = nullptr;  // kMask: pairs of relu's values
    const float* factor = nullptr;   // kScale: fp32 rows
};

template <int RM, int NV>
MCLNF_LANE void dot_steps(const uint32_t* A, const PairPanel& B, VF (&acc)[RM][NV]) {
    constexpr int W = Simd<float>::width, L = Panel<float>::lanes;
    const uint32_t* p = B.values;
    for (int k = 0; k < B.pairs; ++k) {
        VI b[NV];
        MCLNF_IN_REGISTERS
        for (int v = 0; v < NV; ++v) b[v] = pload(p + v * W);
        MCLNF_IN_REGISTERS
        for (int r = 0; r < RM; ++r) {
            const VI a = pset(A[r]);
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) acc[r][v] = vdot(a, b[v], acc[r][v]);
        }
        A += RM;
        p += L;
    }
}

// Rounds a block of fp32 results into pairs of the rows from m on.
template <int kind, int RM, int NV>
MCLNF_LANE void dot_store(const VF (&acc)[RM][NV], int m, const DotResult& to) {
    constexpr int W = Simd<float>::width, L = Panel<float>::lanes;
    const VF zero = {};
    for (int r = 0; r < RM; r += 2) {
        MCLNF_IN_REGISTERS
        for (int v = 0; v < NV; ++v) {
            const bool both = r + 1 < RM;
            const int i = (m + r) / 2 * L + v * W;
            VF low = acc[r][v], high = both ? acc[both ? r + 1 : r][v] : zero;
            if (kind == kRectify) {
                low = low < zero ? zero : low;
                high = high < zero ? zero : high;
            }
            if (kind == kMask) {
                const VI h = pload(to.mask + i);
                low = lower(h) > zero ? low : zero;
                high = upper(h) > zero ? high : zero;
            }
            if (kind == kScale) {
                const float* factor = to.factor + (m + r) * L + v * W;
                low = low * vload(factor);
                if (both) high = high * vload(factor + L);
            }
            pstore(to.pairs + i, vpair(low, high));
        }
    }
}

// The initial values of a block. Branches stand outside the loops over a block: inside, its accumulators
// would go through memory.
template <int RM, int NV>
MCLNF_LANE void dot_begin(const float* bias, int m, VF (&acc)[RM][NV]) {
    if (bias) {
        MCLNF_IN_REGISTERS
        for (int r = 0; r < RM; ++r) {
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) acc[r][v] = vset<float>(bias[m + r]);
        }
    } else {
        MCLNF_IN_REGISTERS
        for (int r = 0; r < RM; ++r) {
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) acc[r][v] = VF{};
        }
    }
}

template <int RM, int NV>
MCLNF_LANE void dot_block(const uint32_t* A, const PairPanel& B, const float* bias, int m,
                          const DotResult& to) {
    constexpr int W = Simd<float>::width, L = Panel<float>::lanes;
    VF acc[RM][NV];
    dot_begin<RM, NV>(bias, m, acc);
    dot_steps<RM, NV>(A, B, acc);
    if (to.rows) {
        MCLNF_IN_REGISTERS
        for (int r = 0; r < RM; ++r) {
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) vstore(to.rows + (m + r) * L + v * W, acc[r][v]);
        }
    } else if (to.epilogue == kRectify) {
        dot_store<kRectify, RM, NV>(acc, m, to);
    } else if (to.epilogue == kMask) {
        dot_store<kMask, RM, NV>(acc, m, to);
    } else if (to.epilogue == kScale) {
        dot_store<kScale, RM, NV>(acc, m, to);
    } else {
        dot_store<kStore, RM, NV>(acc, m, to);
    }
}

// bias (or 0) + A [M, K] B [K, lanes] over the first vectors of a panel, A packed (below).
static void dot_product(int M, const uint32_t* A, const PairPanel& B, const float* bias,
                        const DotResult& to) {
    with_vectors(B.vectors, [&](auto vectors) {
        for (int m = 0; m < M; m += kRows)
            with_rows(std::min(kRows, M - m), [&](auto rows) __attribute__((always_inline)) {
                dot_block<decltype(rows)::value, decltype(vectors)::value>(A + (int64_t)m * B.pairs, B, bias,
                                                                           m, to);
            });
    });
}

// A left factor is packed in blocks of kRows rows one after another, [K][rows] pairs over the reduction each.
// These pack the first `rows` rows of a weight [in, out]: K rows (transposed: A = W^T) or K outputs (A = W).
static void pack_transposed(const Bf16* w, int outputs, int rows, uint32_t* out) {
    typedef uint16_t Eight __attribute__((vector_size(16), aligned(2), may_alias));
    for (int m = 0; m < outputs; m += kRows) {
        const int block = std::min(kRows, outputs - m);
        uint32_t* o = out + (int64_t)m * pairs_of(rows);
        for (int k = 0; k < rows; k += 2, o += block) {
            const Bf16* low = w + (int64_t)k * outputs + m;
            const bool both = k + 1 < rows;
            if (m + 8 <= outputs) {
                const Eight a = *(const Eight*)low, b = both ? *(const Eight*)(low + outputs) : Eight{};
                typedef uint16_t Sixteen __attribute__((vector_size(32)));
                const Sixteen pairs =
                    __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
                std::memcpy(o, &pairs, 4 * kRows);
            } else {
                for (int r = 0; r < block; ++r)
                    o[r] = low[r] | (both ? (uint32_t)low[outputs + r] << 16 : 0u);
            }
        }
    }
}
static void pack_rows(const Bf16* w, int outputs, int rows, uint32_t* out) {
    const int depth = pairs_of(outputs);
    for (int m = 0; m < rows; m += kRows) {
        const int block = std::min(kRows, rows - m);
        uint32_t* o = out + (int64_t)m * depth;
        for (int r = 0; r < block; ++r) {
            const Bf16* from = w + (int64_t)(m + r) * outputs;
            for (int k = 0; k < outputs / 2; ++k) std::memcpy(o + k * block + r, from + 2 * k, 4);
            if (outputs % 2) o[(depth - 1) * block + r] = from[outputs - 1];
        }
    }
}

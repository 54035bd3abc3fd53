// Weight gradients over pairs of points: acc += h[t] d[t] + h[t + 1] d[t + 1].
//
// Included once per instruction set after bf16_tile.h (no include guard, see simd.h). The reduction runs over
// points here, so that pairs of rows become pairs of points first: the activations lie as rows of bf16,
// points one after another; the output gradients transposed, [points / 2] rows of outputs, the even point in
// the lower half of a lane.

// Groups of `lanes` outputs, [points / 2, lanes] each.
struct PairsTransposed {
    uint32_t* values;
    int64_t group;  // from one group to the next

    // The outputs from o on of the points 2t and 2t + 1, o a multiple of the vector width.
    uint32_t* row(int t, int o) const {
        constexpr int L = Panel<float>::lanes;
        return values + (o / L) * group + (int64_t)t * L + o % L;
    }
};

// Pairs of outputs -> pairs of points, for the first `lanes` points (a multiple of 16) of a panel; `in` has
// pairs of outputs up to a multiple of 8, the last ones zero. The points become those from 2 * pair on.
static void transpose_pairs(int outputs, int lanes, const uint32_t* in, int pair, const PairsTransposed& D) {
    constexpr int L = Panel<float>::lanes;
    typedef uint32_t Q __attribute__((vector_size(32), may_alias));
    typedef uint32_t Any __attribute__((vector_size(32), aligned(4), may_alias));
    typedef uint16_t H __attribute__((vector_size(32), aligned(4), may_alias));
    for (int k = 0; k < pairs_of(outputs); k += 8)
        for (int c = 0; c < lanes; c += 8) {
            const uint32_t* p = in + (int64_t)k * L + c;
            Q q[8];
            for (int i = 0; i < 8; ++i) q[i] = *(const Any*)(p + i * L);
            transpose8(q);
            for (int i = 0; i < 8; i += 2) {
                const H a = (H)q[i], b = (H)q[i + 1];
                uint32_t* o = D.row(pair + (c + i) / 2, 2 * k);
                *(H*)o =
                    __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                *(H*)(o + 8) = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14,
                                                       30, 15, 31);
            }
        }
}

// Rows of a tile in bf16, `stride` pairs of points each.
struct PointPairs {
    uint32_t* values;
    int64_t stride;
};

// Pairs of rows -> rows. A point after an odd number of them becomes zero.
static void unpair_rows(const Tile<float>& tile, const PairRows& in, const PointPairs& out) {
    constexpr int L = Panel<float>::lanes, W = Simd<float>::width;
    for (int p = 0; p < tile.panels; ++p)
        for (int k = 0; k < in.pairs; ++k) {
            uint32_t *low = out.values + 2 * k * out.stride + p * (L / 2), *high = low + out.stride;
            for (int v = 0; v < L; v += 2 * W) {
                const uint32_t* from = in.panel(p) + k * L + v;
                const VW a = (VW)pload(from), b = (VW)pload(from + W);
                pstore(low + v / 2, (VI)__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20,
                                                                22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42,
                                                                44, 46, 48, 50, 52, 54, 56, 58, 60, 62));
                pstore(high + v / 2, (VI)__builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21,
                                                                 23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                                 45, 47, 49, 51, 53, 55, 57, 59, 61, 63));
            }
        }
    if (tile.points % 2)
        for (int r = 0; r < 2 * in.pairs; ++r) out.values[r * out.stride + tile.points / 2] &= 0xffffu;
}

// The gradients of a layer's outputs in pairs -> transposed. A point after an odd number of them becomes
// zero: it is in a pair with the last one.
static void transpose_tile_pairs(const Tile<float>& tile, const PairRows& d, int outputs,
                                 const PairsTransposed& to) {
    constexpr int L = Panel<float>::lanes, W = Simd<float>::width;
    for (int p = 0; p < tile.panels; ++p) {
        uint32_t* rows = d.panel(p);
        const int pairs = pairs_of(outputs);
        std::memset(rows + (int64_t)pairs * L, 0, sizeof(uint32_t) * (round_up(pairs, 8) - pairs) * L);
        transpose_pairs(outputs, tile.vectors(p) * W, rows, p * (L / 2), to);
    }
    if (tile.points % 2)
        for (int o = 0; o < outputs; o += W) {
            uint32_t* last = to.row(tile.points / 2, o);
            pstore(last, pload(last) & 0xffff);
        }
}

// bias += the sums over the points; in four parts, whose additions do not wait for each other.
static void add_bias(int outputs, int pairs, const PairsTransposed& D, float* bias) {
    constexpr int W = Simd<float>::width, L = Panel<float>::lanes;
    const VI ones = pset(0x3f803f80u);
    for (int o = 0; o < outputs; o += W) {
        const uint32_t* d = D.row(0, o);
        VF sum[4] = {};
        int t = 0;
        for (; t + 4 <= pairs; t += 4, d += 4 * L)
            for (int i = 0; i < 4; ++i) sum[i] = vdot(pload(d + i * L), ones, sum[i]);
        for (; t < pairs; ++t, d += L) sum[0] = vdot(pload(d), ones, sum[0]);
        vstore(bias + o, vload(bias + o) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
    }
}

// Stores a block of sums at g, rows `outputs` apart, or adds it to the values there; `left` outputs are left
// from its first on.
template <int RM, int NV>
MCLNF_LANE void store_block(float* g, int outputs, int left, bool accumulate, const VF (&sum)[RM][NV]) {
    constexpr int W = Simd<float>::width;
    if (left < NV * W) {
        float part[RM][NV * W];
        MCLNF_IN_REGISTERS
        for (int r = 0; r < RM; ++r) {
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) vstore(part[r] + v * W, sum[r][v]);
        }
        MCLNF_IN_REGISTERS
        for (int r = 0; r < RM; ++r)
            for (int o = 0; o < left; ++o) {
                float* p = g + (int64_t)r * outputs + o;
                *p = accumulate ? *p + part[r][o] : part[r][o];
            }
    } else if (accumulate) {
        MCLNF_IN_REGISTERS
        for (int r = 0; r < RM; ++r) {
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) {
                float* p = g + (int64_t)r * outputs + v * W;
                vstore(p, vload(p) + sum[r][v]);
            }
        }
    } else {
        MCLNF_IN_REGISTERS
        for (int r = 0; r < RM; ++r) {
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) vstore(g + (int64_t)r * outputs + v * W, sum[r][v]);
        }
    }
}

// gradient [rows, outputs] = or += H D^T over the first `pairs` pairs of points.
struct DotWeightGradient {
    static constexpr int W = Simd<float>::width, L = Panel<float>::lanes;
    PointPairs H;
    int pairs;
    PairsTransposed D;
    float* gradient;
    int outputs;
    bool accumulate;

    template <int RM, int NV>
    MCLNF_MEMBER void block(int i, int o) const {
        VF sum[RM][NV];
        MCLNF_IN_REGISTERS
        for (int r = 0; r < RM; ++r) {
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) sum[r][v] = VF{};
        }
        const uint32_t *h = H.values + i * H.stride, *d = D.row(0, o);
        for (int t = 0; t < pairs; ++t, ++h, d += L) {
            VI b[NV];
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) b[v] = pload(d + v * W);
            MCLNF_IN_REGISTERS
            for (int r = 0; r < RM; ++r) {
                const VI a = pset(h[r * H.stride]);
                MCLNF_IN_REGISTERS
                for (int v = 0; v < NV; ++v) sum[r][v] = vdot(a, b[v], sum[r][v]);
            }
        }
        store_block<RM, NV>(gradient + (int64_t)i * outputs + o, outputs, outputs - o, accumulate, sum);
    }
};

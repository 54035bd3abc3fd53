// Weight gradients: dW [rows, outputs] = H D^T, H being a layer's inputs and D its output gradients.
//
// Included once per instruction set after transpose.h (no include guard, see simd.h). Outputs are in the
// lanes, so that a block of dW is a block of registers and is stored once; points in the lanes would be
// summed over the lanes for each value (narrow_gradient.h does so, for the layers of which outputs fill no
// vector).

// Inputs of a layer: panels of [rows, lanes], `stride` apart.
template <class S>
struct LayerInput {
    const S* values = nullptr;
    int64_t stride = 0;
};

// The points first ... end-1 of a tile.
struct PointRange {
    int first, end;
};

template <class S, int RM, int NV>
MCLNF_LANE void clear_block(Vec<S> (&acc)[RM][NV]) {
    MCLNF_IN_REGISTERS
    for (int r = 0; r < RM; ++r) {
        MCLNF_IN_REGISTERS
        for (int v = 0; v < NV; ++v) acc[r][v] = Vec<S>{};
    }
}

// acc += sum_t H[i + r][t] D[t][o + ...] for RM rows and NV vectors of outputs, over a range of points. D
// points to the outputs from o on of the tile's point 0.
template <class S, int RM, int NV>
MCLNF_LANE void add_weight_gradient(const LayerInput<S>& H, int i, PointRange points, const S* D,
                                    Vec<S> (&acc)[RM][NV]) {
    constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    const S* const rows = H.values + i * L;
    const int64_t stride = H.stride;
    const int end = points.end;
    const S* d = D + (int64_t)points.first * L;
    for (int t = points.first; t < end;) {
        const int panel_end = std::min(end, (t / L + 1) * L);
        const S* h = rows + (t / L) * stride + t % L;
        for (; t < panel_end; ++t) {
            Vec<S> b[NV];
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) b[v] = vload(d + v * W);
            MCLNF_IN_REGISTERS
            for (int r = 0; r < RM; ++r) {
                const Vec<S> a = vset<S>(h[r * L]);
                MCLNF_IN_REGISTERS
                for (int v = 0; v < NV; ++v) acc[r][v] = vfma(a, b[v], acc[r][v]);
            }
            ++h;
            d += L;
        }
    }
}

template <class S, int RM, int NV>
MCLNF_LANE void store_registers(const Vec<S> (&sum)[RM][NV], S (&to)[RM][NV * Simd<S>::width]) {
    MCLNF_IN_REGISTERS
    for (int r = 0; r < RM; ++r) {
        MCLNF_IN_REGISTERS
        for (int v = 0; v < NV; ++v) vstore(to[r] + v * Simd<S>::width, sum[r][v]);
    }
}

// Walks over all blocks of a weight gradient: f.template block<RM, NV>(row, output) on each. Outputs are the
// outer loop: their transposed gradients stay in the first-level cache while the rows pass.
template <class S, class F>
static void each_gradient_block(int rows, int outputs, const F& f) {
    constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    for (int o = 0; o < outputs; o += L)
        with_vectors(std::min(L, outputs - o + W - 1) / W, [&](auto vectors) __attribute__((always_inline)) {
            for (int i = 0, block; i < rows; i += block) {
                block = block_rows(rows - i);
                with_rows(block, [&](auto count) __attribute__((always_inline)) {
                    f.template block<decltype(count)::value, decltype(vectors)::value>(i, o);
                });
            }
        });
}

// A vector of which the first `count` lanes are in memory.
template <class S>
MCLNF_LANE Vec<S> vload_part(const S* p, int count) {
    if (count >= Simd<S>::width) return vload(p);
    Vec<S> v = {};
    for (int i = 0; i < count; ++i) v[i] = p[i];
    return v;
}
template <class S>
MCLNF_LANE void vstore_part(S* p, Vec<S> v, int count) {
    if (count >= Simd<S>::width) return vstore(p, v);
    for (int i = 0; i < count; ++i) p[i] = v[i];
}

// How a weight gradient reaches its memory.
enum class Store {
    kWrite,
    kAdd,
    kStream,  // written past the caches; whole vectors at aligned addresses alone
};

// gradient [rows, outputs] = or += H D^T, and with H2 given + H2 D2^T, over a range of points.
template <class S>
struct WeightGradient {
    static constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    LayerInput<S> H;
    Transposed<S> D;
    PointRange points;
    S* gradient;
    int outputs;
    Store store;
    LayerInput<S> H2{};
    Transposed<S> D2{};

    template <int RM, int NV>
    MCLNF_MEMBER void block(int i, int o) const {
        Vec<S> sum[RM][NV];
        clear_block<S, RM, NV>(sum);
        const LayerInput<S>* h = &H;
        const Transposed<S>* d = &D;
        // A loop and not two calls, as in `product_block`.
        for (int last = H2.values ? 0 : 1;; ++last) {
            add_weight_gradient<S, RM, NV>(*h, i, points, d->row(0, o), sum);
            if (last) break;
            h = &H2;
            d = &D2;
        }
        put<RM, NV>(sum, gradient + (int64_t)i * outputs + o, outputs - o);
    }

  private:
    // `left` outputs are left from the block's first on.
    template <int RM, int NV>
    MCLNF_MEMBER void put(Vec<S> (&sum)[RM][NV], S* to, int left) const {
        const int64_t row = outputs;
        const bool add = store == Store::kAdd;
        if (store == Store::kStream) {
            MCLNF_IN_REGISTERS
            for (int r = 0; r < RM; ++r) {
                MCLNF_IN_REGISTERS
                for (int v = 0; v < NV; ++v) vstream(to + r * row + v * W, sum[r][v]);
            }
        } else if (left >= NV * W) {
            MCLNF_IN_REGISTERS
            for (int r = 0; r < RM; ++r) {
                MCLNF_IN_REGISTERS
                for (int v = 0; v < NV; ++v) {
                    S* p = to + r * row + v * W;
                    vstore(p, add ? vload(p) + sum[r][v] : sum[r][v]);
                }
            }
        } else {
            S part[RM][NV * W];  // in memory: a number of outputs that is not constant can't name registers
            store_registers<S, RM, NV>(sum, part);
            for (int r = 0; r < RM; ++r)
                for (int o = 0; o < left; ++o) {
                    S* p = to + r * row + o;
                    *p = add ? *p + part[r][o] : part[r][o];
                }
        }
    }
};

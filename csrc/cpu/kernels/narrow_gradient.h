// Weight gradients of a layer of few outputs (the last one of a field, as a rule), which weight_gradient.h
// would have in the lanes of one vector, most of them empty: summed with points in the lanes, and over the
// lanes once per run. No transposition either.
//
// Included once per instruction set after bank_tile.h (no include guard, see simd.h).

// Lane j of the result: the sum of the lanes of t[j]. Vectors 2k and 2k + 1 become one at each step, of which
// every H lanes belong to one sum: W - 1 additions for W sums; one sum after another would take W log W.
template <class S, int H, int... I>
MCLNF_LANE Vec<S> halves(Vec<S> a, Vec<S> b, std::integer_sequence<int, I...>) {
    constexpr int W = Simd<S>::width;
    const auto source = [](int i, int high) constexpr {
        const int j = i % (W / 2);
        return i / (W / 2) * W + j / H * 2 * H + j % H + high;
    };
    return __builtin_shufflevector(a, b, source(I, 0)...) + __builtin_shufflevector(a, b, source(I, H)...);
}
template <class S, int H>
MCLNF_LANE Vec<S> sums_of_lanes(Vec<S>* t) {
    for (int k = 0; k < H; ++k)
        t[k] = halves<S, H>(t[2 * k], t[2 * k + 1], std::make_integer_sequence<int, Simd<S>::width>());
    if constexpr (H > 1)
        return sums_of_lanes<S, H / 2>(t);
    else
        return t[0];
}

template <class S>
struct NarrowGradient {
    static constexpr int W = Simd<S>::width, L = Panel<S>::lanes, kMaxOutputs = 4, kRowsAtOnce = 3;
    S* sums = nullptr;  // a vector per sum: [rows, outputs], then the biases' [outputs]
    int rows = 0, outputs = 0;

    NarrowGradient() = default;
    NarrowGradient(const Layer& layer, Arena<S>& memory) {
        if (layer.out > kMaxOutputs || layer.skip) return;
        rows = layer.from_prev;
        outputs = layer.out;
        sums = memory.zeros((size_t)round_up((rows + 1) * outputs, W) * W);
    }
    explicit operator bool() const { return sums != nullptr; }

    // += h d^T, and with `bias` += the sums of d over the points; lanes without a point hold a d of 0.
    void add(const Tile<S>& tile, const Rows<S>& h, const Rows<S>& d, bool bias) const {
        switch (outputs) {
#define MCLNF_OUTPUTS(N)             \
    case N:                          \
        add_as<N>(tile, h, d, bias); \
        break;
            MCLNF_OUTPUTS(1)
            MCLNF_OUTPUTS(2)
            MCLNF_OUTPUTS(3)
            MCLNF_OUTPUTS(4)
#undef MCLNF_OUTPUTS
        }
    }
    void store(S* weight, S* bias) const {
        const int count = rows * outputs;
        for (int i = 0; i < count + outputs; i += W) {
            Vec<S> t[W];
            for (int j = 0; j < W; ++j) t[j] = vload(sums + (int64_t)(i + j) * W);
            const Vec<S> sum = sums_of_lanes<S, W / 2>(t);
            for (int j = 0; j < W && i + j < count + outputs; ++j)
                (i + j < count ? weight[i + j] : bias[i + j - count]) = sum[j];
        }
    }

  private:
    template <int N>
    void add_as(const Tile<S>& tile, const Rows<S>& h, const Rows<S>& d, bool bias) const {
        for (int p = 0; p < tile.panels; ++p) {
            int i = 0;
            for (; i + kRowsAtOnce <= rows; i += kRowsAtOnce)
                add_rows<N, kRowsAtOnce>(h.panel(p) + i * L, d.panel(p), tile.vectors(p), i);
            for (; i < rows; ++i) add_rows<N, 1>(h.panel(p) + i * L, d.panel(p), tile.vectors(p), i);
            if (!bias) continue;
            MCLNF_IN_REGISTERS
            for (int o = 0; o < N; ++o) {
                S* to = sums + (int64_t)(rows * N + o) * W;
                Vec<S> sum = vload(to);
                for (int v = 0; v < tile.vectors(p); ++v) sum = sum + vload(d.panel(p) + o * L + v * W);
                vstore(to, sum);
            }
        }
    }
    template <int N, int R>
    MCLNF_MEMBER void add_rows(const S* h, const S* d, int nv, int i) const {
        S* to = sums + (int64_t)i * N * W;
        Vec<S> sum[R][N];
        MCLNF_IN_REGISTERS
        for (int r = 0; r < R; ++r) {
            MCLNF_IN_REGISTERS
            for (int o = 0; o < N; ++o) sum[r][o] = vload(to + (r * N + o) * W);
        }
        for (int v = 0; v < nv; ++v) {
            MCLNF_IN_REGISTERS
            for (int r = 0; r < R; ++r) {
                const Vec<S> a = vload(h + r * L + v * W);
                MCLNF_IN_REGISTERS
                for (int o = 0; o < N; ++o) sum[r][o] = vfma(a, vload(d + o * L + v * W), sum[r][o]);
            }
        }
        MCLNF_IN_REGISTERS
        for (int r = 0; r < R; ++r) {
            MCLNF_IN_REGISTERS
            for (int o = 0; o < N; ++o) vstore(to + (r * N + o) * W, sum[r][o]);
        }
    }
};

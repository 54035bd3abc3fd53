// The squared error of a tile's outputs and its gradient.
//
// Included once per instruction set after bank_tile.h (no include guard, see simd.h).

template <class S>
struct SquaredError {
    static constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    const OutputGradient<S>& of;
    int outputs;
    Rows<S> weight;  // one row per tile

    SquaredError(const OutputGradient<S>& output, int out_dim, int panels, Arena<S>& memory)
        : of(output), outputs(out_dim), weight(memory, 1, panels) {}

    // d = 2 scale weight (y - target) of the tile that starts at point `begin`; with the outputs' tangents
    // given, dt = its derivative along them. Returns the error over the tile, scale left out: it is applied
    // once, in double.
    double gradient(const Tile<S>& tile, int64_t begin, const Rows<S>& y, const Rows<S>& d,
                    const Rows<S>* tangent = nullptr, const Rows<S>* dt = nullptr) const {
        load_points(of.target + begin * outputs, tile, d, outputs, Pad::kZero);
        if (of.weight) load_points(of.weight + begin, tile, weight, 1, Pad::kZero);
        const Vec<S> twice = vset<S>(2 * of.scale);
        Vec<S> sum = {};
        for (int p = 0; p < tile.panels; ++p) {
            S* w = weight.panel(p);
            if (!of.weight)
                for (int t = 0; t < L; ++t) w[t] = t < tile.in_panel(p) ? S(1) : S(0);
            for (int r = 0; r < outputs; ++r)
                for (int v = 0; v < tile.vectors(p); ++v) {
                    const int i = r * L + v * W;
                    // A lane without a point has weight 0 and a finite output: that of the last point.
                    const Vec<S> share = vload(w + v * W), e = vload(y.panel(p) + i) - vload(d.panel(p) + i);
                    sum = vfma(share * e, e, sum);
                    // The error's gradient first, then its weight, as a Fisher score takes them one by one.
                    vstore(d.panel(p) + i, twice * e * share);
                    if (dt) vstore(dt->panel(p) + i, twice * share * vload(tangent->panel(p) + i));
                }
        }
        double total = 0;
        for (int v = 0; v < W; ++v) total += double(sum[v]);
        return total;
    }
};

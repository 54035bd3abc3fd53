// A tile of points: its panels in memory, and the way of points into them and out of them.
//
// Included once per instruction set after gemm_tile.h, transpose.h and arena.h (no include guard, see
// simd.h). A tile is a few panels (gemm_tile.h) that go through a layer together, so that the layer's weights
// are read once for all of them.

static inline int round_up(int a, int b) { return (a + b - 1) / b * b; }

template <class S>
struct Tile {
    static constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    int points, panels;

    explicit Tile(int n) : points(n), panels((n + L - 1) / L) {}
    int in_panel(int p) const { return std::min(L, points - p * L); }
    // Vectors of a panel that hold points; at least 4 lanes, the block of a transposition.
    int vectors(int p) const { return round_up(in_panel(p), std::max(W, 4)) / W; }
};

// The points of a run that a tile holds and, if they come in pieces that are never cut (rays, or segments of
// points), the pieces.
struct TileRange {
    int64_t begin = 0, end = 0;              // points
    int64_t first_piece = 0, end_piece = 0;  // pieces; of none, 0
    int points() const { return (int)(end - begin); }
};

// A matrix of a tile: `rows` features per panel.
template <class S>
struct Rows {
    S* values = nullptr;
    int rows = 0;

    Rows() = default;
    Rows(Arena<S>& memory, int count, int panels)
        : values(memory.take((size_t)count * panels * Panel<S>::lanes)), rows(count) {}
    Rows(S* memory, int count) : values(memory), rows(count) {}
    explicit operator bool() const { return values != nullptr; }
    int64_t stride() const { return (int64_t)rows * Panel<S>::lanes; }
    S* panel(int p) const { return values + p * stride(); }
    S* panel_or_none(int p) const { return values ? panel(p) : nullptr; }
    LayerInput<S> input() const { return {values, stride()}; }
    // The same memory with another number of rows, at most those that it was taken for.
    Rows resized(int count) const { return Rows(values, count); }
    void clear(int p) const { std::memset(panel(p), 0, sizeof(S) * stride()); }
};

// The contents of the lanes beyond the last point, as far as a vector holds points. Lanes further on are
// not read by anyone.
enum class Pad {
    kRepeat,  // the last point's values: finite if those are, so that no lane raises or slows a function
    kZero,    // adds nothing to a sum over points
};

// Points as rows in memory -> points as lanes.
template <class S>
static void load_points(const S* x, const Tile<S>& tile, const Rows<S>& out, int dims, Pad pad) {
    constexpr int L = Panel<S>::lanes;
    for (int p = 0; p < tile.panels; ++p) {
        const int n = tile.in_panel(p), lanes = tile.vectors(p) * Simd<S>::width;
        const S* from = x + (int64_t)p * L * dims;
        S* to = out.panel(p);
        for (int d = 0; d < dims; ++d) {
            for (int t = 0; t < n; ++t) to[d * L + t] = from[(int64_t)t * dims + d];
            for (int t = n; t < lanes; ++t) to[d * L + t] = pad == Pad::kRepeat ? to[d * L + n - 1] : S(0);
        }
    }
}
template <class S>
static void store_points(const Rows<S>& in, const Tile<S>& tile, int dims, S* y) {
    constexpr int L = Panel<S>::lanes;
    for (int p = 0; p < tile.panels; ++p) {
        const int n = tile.in_panel(p);
        const S* from = in.panel(p);
        S* to = y + (int64_t)p * L * dims;
        for (int t = 0; t < n; ++t)
            for (int d = 0; d < dims; ++d) to[(int64_t)t * dims + d] = from[d * L + t];
    }
}

// out = a * b over a tile's rows.
template <class S>
static void multiply(const Tile<S>& tile, const Rows<S>& a, const Rows<S>& b, const Rows<S>& out) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    for (int p = 0; p < tile.panels; ++p) {
        const int nv = tile.vectors(p);
        const S *pa = a.panel(p), *pb = b.panel(p);
        S* po = out.panel(p);
        for (int r = 0; r < a.rows; ++r)
            for (int v = 0; v < nv; ++v) {
                const int i = r * L + v * W;
                vstore(po + i, vload(pa + i) * vload(pb + i));
            }
    }
}

// Outputs padded to whole blocks of the transposition.
template <class S>
static int padded(int outputs) {
    return round_up(outputs, std::max(Simd<S>::width, 4));
}

// Transposes the gradients d of a layer's outputs; bias, if given, receives their sums over the points.
template <class S>
static void transpose_tile(const Tile<S>& tile, const Rows<S>& d, int outputs, const Transposed<S>& to,
                           S* bias) {
    constexpr int L = Panel<S>::lanes;
    for (int p = 0; p < tile.panels; ++p) {
        S* rows = d.panel(p);
        std::memset(rows + outputs * L, 0, sizeof(S) * (padded<S>(outputs) - outputs) * L);
        transpose_panel<S>(padded<S>(outputs), tile.vectors(p) * Simd<S>::width, rows, p * L, to, bias);
    }
}

// Memory for a tile's transposed output gradients of any layer up to `max_dim` wide.
template <class S>
static Transposed<S> transposed_rows(int max_dim, int panels, Arena<S>& memory) {
    constexpr int L = Panel<S>::lanes;
    const int64_t group = (int64_t)panels * L * L;
    return {memory.take((size_t)(round_up(max_dim, L) / L) * group), group};
}

// Forward, backward and second-order sweeps of one module over a run of points,
// a tile of points at a time.
//
// Included once per instruction set after gemm_tile.h and bank_tile.h (no
// include guard, see simd.h). All of a tile's activations stay in the cache
// from the first layer to the last, and backward computes them again instead of
// keeping them.

// Points a tile: enough that a layer's weights, which a tile reads once, cost
// little beside the arithmetic.
static constexpr int kTilePoints = 128;
// Points of a run from which its weights are put into the order in which the products read them: those of the
// backward, whose values lie a row apart, and those of the forward, which lie side by side as they are.
static constexpr int64_t kPackBackward = 512, kPackForward = 2048;

template <class S>
static int tile_panels(int64_t n) {
    constexpr int L = Panel<S>::lanes;
    return (int)std::min<int64_t>(std::max(1, kTilePoints / L), (n + L - 1) / L);
}

// The weights of one layer as left factors: of the layer before and, for a skip
// layer, of the encoding.
template <class S>
struct LayerWeights {
    Left<S> prev, encoding;
};

// W^T (forward) or W (backward, and everything else of that shape) of every
// layer.
template <class S>
static const LayerWeights<S>* left_factors(const Net& net, Slices<S> par, bool transposed, int64_t n,
                                           Arena<S>& memory) {
    LayerWeights<S>* found = memory.template objects<LayerWeights<S>>(net.layers.size());
    for (size_t l = 0; l < net.layers.size(); ++l) {
        const Layer& layer = net.layers[l];
        const auto part = [&](const S* w, int rows) -> Left<S> {
            const Left<S> raw = transposed ? Left<S>{w, 1, layer.out} : Left<S>{w, layer.out, 1};
            if (n < (transposed ? kPackForward : kPackBackward)) return raw;
            if ((transposed ? rows : layer.out) <= kThin) return raw;
            return transposed ? pack(layer.out, rows, raw, memory.take((size_t)rows * layer.out))
                              : pack(rows, layer.out, raw, memory.take((size_t)rows * layer.out));
        };
        found[l].prev = part(par.weight[l], layer.from_prev);
        if (layer.skip)
            found[l].encoding =
                part(par.weight[l] + (int64_t)layer.from_prev * layer.out, layer.in - layer.from_prev);
    }
    return found;
}

// Z = W^T H + b, H being the layer before and, for a skip layer, the encoding
// as well.
template <class S>
static void layer_forward(const Layer& layer, const LayerWeights<S>& w, const S* bias, const S* prev,
                          const S* E, int nv, S* Z, bool accumulate, int after = kKeep,
                          Ahead* ahead = nullptr) {
    product<S>(layer.out, layer.from_prev, w.prev, prev, nv, Z, bias, accumulate, layer.skip ? kKeep : after,
               nullptr, ahead);
    if (layer.skip)
        product<S>(layer.out, layer.in - layer.from_prev, w.encoding, E, nv, Z, nullptr, true, after);
}

// G = after(W d) (added to where `accumulate`); the encoding's share of a skip
// layer is added to GE.
template <class S>
static void layer_backward(const Layer& layer, const LayerWeights<S>& w, const S* d, int nv, S* G, S* GE,
                           bool accumulate, int after = kKeep, const S* with = nullptr) {
    if (G) product<S>(layer.from_prev, layer.out, w.prev, d, nv, G, nullptr, accumulate, after, with);
    if (layer.skip && GE)
        product<S>(layer.in - layer.from_prev, layer.out, w.encoding, d, nv, GE, nullptr, true);
}

// The encoding and all layers of a tile: H[l] are the outputs of layer l, D[l]
// the derivatives of its activation where that is no relu (whose are read off
// H). The layers before `first` are there already.
template <class S>
static void tile_forward(const Net& net, Slices<S> par, const LayerWeights<S>* w, const Tile<S>& tile,
                         const Rows<S>& X, const Rows<S>& E, const Rows<S>* H, const Rows<S>* D,
                         int first = 0) {
    const int last = (int)net.layers.size() - 1;
    for (int p = 0; p < tile.panels; ++p)
        encode<S>(net, X.panel(p), E.panel(p), nullptr, nullptr, tile.vectors(p));
    for (int l = first; l <= last; ++l) {
        const Layer& layer = net.layers[l];
        const int kind = l == last ? net.output_activation : net.activation;
        const Rows<S>& prev = l > 0 ? H[l - 1] : E;
        // While a layer is at work, the next module's weights of the same one are asked for (or what par.next
        // names in their place): with few points a module their way from memory takes as long as all the
        // arithmetic.
        Ahead ahead;
        if (par.next) {
            const int64_t blocks = (layer.out + kTallest - 1) / kTallest;
            ahead = Ahead(par.next[l], (int64_t)layer.in * layer.out, tile.panels * blocks * layer.from_prev);
        }
        for (int p = 0; p < tile.panels; ++p) {
            const int nv = tile.vectors(p);
            S* Z = H[l].panel(p);
            layer_forward<S>(layer, w[l], par.bias[l], prev.panel(p), E.panel(p), nv, Z, false,
                             kind == kRelu ? kRelu0 : kKeep, par.next ? &ahead : nullptr);
            if (kind != kRelu && kind != kNone)
                activate<S>(kind, net.w0, net.layers[l].out, nv, Z, D && D[l] ? D[l].panel(p) : nullptr);
        }
    }
}

// The hidden layers' outputs of the tile that starts at point `at`, in the memory that `forward` keeps.
template <class S>
static void place_kept(const Net& net, const Tile<S>& tile, int64_t at, S* kept, Rows<S>* H) {
    constexpr int L = Panel<S>::lanes;
    S* place = kept + kept_values(net, at, L);
    for (size_t l = 0; l + 1 < net.layers.size(); ++l) {
        H[l].at = place;
        place += tile.panels * H[l].stride();
    }
}

// Whether a run's lanes are better outputs than points: a quarter of the lanes would have no point.
template <class S>
static bool lanes_are_outputs(const Net& net, int64_t n, const S* keep) {
    constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    bool whole =
        MCLNF_VBYTES == 64 && n < L && 4 * n <= 3 * round_up((int)n, W) && !keep && net.layers.size() > 1;
    for (size_t l = 0; l + 1 < net.layers.size(); ++l) whole &= net.layers[l].out % W == 0;
    return whole;
}

// `forward` of few points: the weights are read as they lie, a vector of outputs at a time, and the points'
// values are broadcast. Hidden activations are [points, lanes] for each group of `lanes` outputs; the last
// layer, a narrow one, gets them as a panel.
template <class S>
static void forward_few(const Net& net, Slices<S> par, const S* x, int n, S* y) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    Arena<S>& memory = arena<S>();
    const int last = (int)net.layers.size() - 1, padded_points = round_up(n, 8);
    const Tile<S> tile(n);
    const Rows<S> X(memory, net.in_dim, 1), E(memory, net.encoded, 1);
    const int groups = round_up(net.max_dim, L) / L;
    const int64_t group = (int64_t)padded_points * L;
    S *prev = memory.take(groups * group), *own = memory.take(groups * group);
    load_points(x, tile, X, net.in_dim, true);
    encode<S>(net, X.at, E.at, nullptr, nullptr, tile.vectors(0));
    const Left<S> encoding{E.at, 1, L};
    for (int l = 0; l < last; ++l) {
        const Layer& layer = net.layers[l];
        const int after = net.activation == kRelu ? kRelu0 : kKeep, below = layer.in - layer.from_prev;
        const int blocks = (n + kRows - 1) / kRows * (round_up(layer.out, L) / L);
        Ahead ahead;
        if (par.next) ahead = Ahead(par.next[l], (int64_t)layer.in * layer.out, (int64_t)blocks * layer.in);
        Ahead* soon = par.next ? &ahead : nullptr;
        for (int o = 0; o < layer.out; o += L) {
            const int width = std::min(L, layer.out - o), nv = width / W;
            S* to = own + o / L * group;
            const S* w = par.weight[l] + o;
            if (l == 0)
                product<S>(n, layer.in, encoding, w, nv, to, par.bias[l] + o, true, after, nullptr, soon,
                           layer.out);
            for (int k = 0; l > 0 && k < layer.from_prev; k += L) {
                const int rows = std::min(L, layer.from_prev - k);
                const bool done = k + rows == layer.from_prev && !layer.skip;
                product<S>(n, rows, Left<S>{prev + k / L * group, L, 1}, w + (int64_t)k * layer.out, nv, to,
                           k == 0 ? par.bias[l] + o : nullptr, true, done ? after : kKeep, nullptr, soon,
                           layer.out);
            }
            if (l > 0 && layer.skip)
                product<S>(n, below, encoding, w + (int64_t)layer.from_prev * layer.out, nv, to, nullptr,
                           true, after, nullptr, soon, layer.out);
            if (net.activation != kRelu && net.activation != kNone)
                activate<S>(net.activation, net.w0, n, nv, to, nullptr);
        }
        std::swap(prev, own);
    }
    const int features = net.layers[last].from_prev;
    S* panel = memory.take((size_t)round_up(features, L) * L);
    for (int k = 0; k < features; k += L)
        transpose_panel<S>(padded_points, std::min(L, features - k), prev + k / L * group, 0,
                           Transposed<S>{panel + k * L, 0}, nullptr);
    const auto* w = left_factors(net, par, true, n, memory);
    S* out = memory.take((size_t)net.out_dim * L);
    layer_forward<S>(net.layers[last], w[last], par.bias[last], panel, E.at, tile.vectors(0), out, false,
                     net.output_activation == kRelu ? kRelu0 : kKeep);
    if (net.output_activation != kRelu && net.output_activation != kNone)
        activate<S>(net.output_activation, net.w0, net.out_dim, tile.vectors(0), out, nullptr);
    Rows<S> result;
    result.at = out;
    result.rows = net.out_dim;
    store_points(result, tile, net.out_dim, y);
}

template <class S>
static void forward(const Net& net, Slices<S> par, const S* x, int64_t n, S* y, S* keep) {
    constexpr int L = Panel<S>::lanes;
    if (lanes_are_outputs(net, n, keep)) return forward_few(net, par, x, (int)n, y);
    Arena<S>& memory = arena<S>();
    const int panels = tile_panels<S>(n), layers = (int)net.layers.size();
    const auto* w = left_factors(net, par, true, n, memory);
    const Rows<S> X(memory, net.in_dim, panels), E(memory, net.encoded, panels);
    const S* two[2] = {memory.take((size_t)net.max_dim * panels * L),
                       memory.take((size_t)net.max_dim * panels * L)};
    Rows<S>* H = memory.template objects<Rows<S>>(layers);
    for (int l = 0; l < layers; ++l) {
        H[l].at = const_cast<S*>(two[l % 2]);
        H[l].rows = net.layers[l].out;
    }
    for (int64_t at = 0; at < n; at += panels * L) {
        const Tile<S> tile((int)std::min<int64_t>(panels * L, n - at));
        load_points(x + at * net.in_dim, tile, X, net.in_dim, true);
        if (keep) place_kept(net, tile, at, keep, H);
        Slices<S> own = par;
        if (at + panels * L < n) own.next = nullptr;
        tile_forward<S>(net, own, w, tile, X, E, H, nullptr);
        store_points(H[layers - 1], tile, net.out_dim, y + at * net.out_dim);
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

template <class S>
static int padded(int outputs) {
    return round_up(outputs, std::max(Simd<S>::width, 4));
}

// The gradients d of a layer's outputs, transposed; bias, where given, receives
// their sums.
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

// Weight gradients of one layer over a tile: H D^T, the encoding's share of a skip layer below. `once`: they
// are written by this tile alone and not read soon.
template <class S>
static void add_outer(const Layer& layer, const Rows<S>& prev, const Rows<S>& E, const Transposed<S>& dT,
                      const Tile<S>& tile, S* grad, bool accumulate, bool once = false) {
    constexpr uintptr_t bytes = MCLNF_VBYTES;
    const bool stream = once && !accumulate && layer.out % Simd<S>::width == 0 &&
                        reinterpret_cast<uintptr_t>(grad) % bytes == 0;
    outer_blocks<S>(
        layer.from_prev, layer.out,
        OuterSum<S>{prev.at, prev.stride(), 0, tile.points, dT, grad, layer.out, accumulate, stream});
    if (layer.skip)
        outer_blocks<S>(
            layer.in - layer.from_prev, layer.out,
            OuterSum<S>{E.at, E.stride(), 0, tile.points, dT, grad + (int64_t)layer.from_prev * layer.out,
                        layer.out, accumulate, stream});
}

// Sums of rows of outputs, one padded row a layer.
template <class S>
struct BiasSums {
    S** at;

    BiasSums(const Net& net, Arena<S>& memory) : at(memory.template objects<S*>(net.layers.size())) {
        for (size_t l = 0; l < net.layers.size(); ++l) at[l] = memory.zeros(padded<S>(net.layers[l].out));
    }
    void store(const Net& net, Sums<S> to) const {
        for (size_t l = 0; l < net.layers.size(); ++l)
            std::copy(at[l], at[l] + net.layers[l].out, to.bias[l]);
    }
};

// The layers of a network over a tile: forward, and from a layer's output gradient to its inputs'.
//
// Included once per instruction set after bank_tile.h, activation_tile.h and encoding_tile.h (no include
// guard, see simd.h). All of a tile's activations stay in the cache from the first layer to the last.

// Points of a tile: enough that a layer's weights, which a tile reads once, cost little beside the
// arithmetic; twice as many no longer fit the second-level cache with the activations of a deep network.
static constexpr int kTilePoints = 128;
// Points of a run from which its weights are packed. The backward's lhs has its values a row apart, so that
// packing pays early; the forward's lie side by side as they are.
static constexpr int64_t kPackBackward = 512, kPackForward = 2048;

template <class S>
static int tile_panels(int64_t n) {
    constexpr int L = Panel<S>::lanes;
    return (int)std::min<int64_t>(std::max(1, kTilePoints / L), (n + L - 1) / L);
}

// The weights of one layer as the left factors of products: those fed by the layer before and, for a skip
// layer, by the encoding.
template <class S>
struct LayerWeights {
    Lhs<S> prev, encoding;
};

// Forward multiplies by W^T, backward (and everything else of that shape) by W.
enum class Direction { kForward, kBackward };

// The left factor of `rows` rows of a layer's weights, packed if the run's n points are worth it.
template <class S>
static Lhs<S> left_factor(const S* w, int rows, int out, Direction direction, int64_t n, Arena<S>& memory) {
    const bool transposed = direction == Direction::kForward;
    const Lhs<S> raw = transposed ? Lhs<S>{w, 1, out} : Lhs<S>{w, out, 1};
    if (n < (transposed ? kPackForward : kPackBackward)) return raw;
    if ((transposed ? rows : out) <= kThin) return raw;  // `product_thin` reads it as it is
    S* packed = memory.take((size_t)rows * out);
    return transposed ? pack(out, rows, raw, packed) : pack(rows, out, raw, packed);
}

template <class S>
static const LayerWeights<S>* layer_weights(const Net& net, const Parameters<S>& par, Direction direction,
                                            int64_t n, Arena<S>& memory) {
    LayerWeights<S>* weights = memory.template objects<LayerWeights<S>>(net.layers.size());
    for (size_t l = 0; l < net.layers.size(); ++l) {
        const Layer& layer = net.layers[l];
        const auto lhs = [&](const S* w, int rows) {
            return left_factor<S>(w, rows, layer.out, direction, n, memory);
        };
        weights[l].prev = lhs(par.weight[l], layer.from_prev);
        if (layer.skip)
            weights[l].encoding = lhs(par.weight[l] + layer.encoding_offset(), layer.from_encoding());
    }
    return weights;
}

// A panel of a layer's inputs: the layer before and, for a skip layer, the encoding.
template <class S>
struct InputPanel {
    const S *prev, *encoding;
    int vectors;
};

// Z = epilogue(W^T H + b), H being the inputs.
template <class S>
static void layer_forward(const Layer& layer, const LayerWeights<S>& w, const S* bias,
                          const InputPanel<S>& in, S* Z, EpilogueKind epilogue,
                          Prefetch* prefetch = nullptr) {
    Product<S> from_prev{layer.out, in.vectors, {layer.from_prev, w.prev, in.prev}, Z};
    from_prev.bias = bias;
    from_prev.prefetch = prefetch;
    if (!layer.skip) from_prev.epilogue.kind = epilogue;
    product(from_prev);
    if (!layer.skip) return;
    Product<S> from_encoding{layer.out, in.vectors, {layer.from_encoding(), w.encoding, in.encoding}, Z};
    from_encoding.accumulate = true;
    from_encoding.epilogue.kind = epilogue;
    product(from_encoding);
}

// Memory for the gradients of a layer's inputs.
template <class S>
struct InputGradient {
    S* prev;
    S* encoding;      // added to; null: not needed
    bool accumulate;  // to what `prev` holds
    Epilogue<S> epilogue{};
};

// prev = epilogue(W d), d being a panel of the gradients of the layer's pre-activations.
template <class S>
static void layer_backward(const Layer& layer, const LayerWeights<S>& w, const S* d, int vectors,
                           const InputGradient<S>& to) {
    Product<S> into_prev{layer.from_prev, vectors, {layer.out, w.prev, d}, to.prev};
    into_prev.accumulate = to.accumulate;
    into_prev.epilogue = to.epilogue;
    product(into_prev);
    if (!layer.skip || !to.encoding) return;
    Product<S> into_encoding{layer.from_encoding(), vectors, {layer.out, w.encoding, d}, to.encoding};
    into_encoding.accumulate = true;
    product(into_encoding);
}

// The activations of a tile.
template <class S>
struct TileActivations {
    Rows<S> X, E;          // coordinates and their encoding
    Rows<S>* H = nullptr;  // outputs of layer l
    Rows<S>* D = nullptr;  // a'(z) of the layers whose value does not hold it; null: not asked for

    // Inputs of layer l.
    const Rows<S>& input(int l) const { return l > 0 ? H[l - 1] : E; }
};

// The hidden layers' outputs of the tile that starts at point `begin`, in the memory that `forward` saves.
template <class S>
static void place_saved(const Net& net, const Tile<S>& tile, int64_t begin, S* saved, Rows<S>* H) {
    constexpr int L = Panel<S>::lanes;
    S* values = saved + saved_values(net, begin, L);
    for (size_t l = 0; l + 1 < net.layers.size(); ++l) {
        H[l].values = values;
        values += tile.panels * H[l].stride();
    }
}

// The encoding and all layers of a tile whose coordinates are loaded. The layers before `first` are there.
template <class S>
static void tile_forward(const Net& net, const Parameters<S>& par, const LayerWeights<S>* w,
                         const Tile<S>& tile, const TileActivations<S>& at, int first = 0) {
    for (int p = 0; p < tile.panels; ++p) encode<S>(net, {at.X.panel(p)}, {at.E.panel(p)}, tile.vectors(p));
    for (int l = first; l < (int)net.layers.size(); ++l) {
        const Layer& layer = net.layers[l];
        const int kind = net.activation_of(l);
        // While a layer is at work, the next module's weights of the same one are prefetched (or whatever
        // next_weight names): with few points per module their way from memory takes as long as all the
        // arithmetic.
        Prefetch prefetch;
        if (par.next_weight) {
            const int64_t blocks = (layer.out + kTallest - 1) / kTallest;
            prefetch = Prefetch(par.next_weight[l], layer.weights(), tile.panels * blocks * layer.from_prev);
        }
        for (int p = 0; p < tile.panels; ++p) {
            const InputPanel<S> in{at.input(l).panel(p), at.E.panel(p), tile.vectors(p)};
            S* Z = at.H[l].panel(p);
            layer_forward<S>(layer, w[l], par.bias[l], in, Z, kind == kRelu ? kRectify : kStore,
                             par.next_weight ? &prefetch : nullptr);
            if (kind != kRelu && kind != kNone)
                activate<S>(kind, net.w0, layer.out, in.vectors,
                            {Z, at.D ? at.D[l].panel_or_none(p) : nullptr});
        }
    }
}

// One layer of a tile on the way backward.
template <class S>
struct LayerStep {
    int index;
    const Layer& layer;
    const Tile<S>& tile;
    const Rows<S>&input, &encoding;  // E is an input of skip layers
    const Rows<S>& d;                // gradients of the pre-activations
    const Transposed<S>& dT;         // d transposed, if anything asked for it
    bool accumulate;                 // to the sums over the run: all tiles but the first
};

// gradient = or += H D^T of one layer over a whole tile, rows fed by the encoding below those of the layer
// before.
template <class S>
static void add_weight_gradients(const LayerStep<S>& step, S* gradient, Store store) {
    const Layer& layer = step.layer;
    WeightGradient<S> sum{step.input.input(), step.dT, {0, step.tile.points}, gradient, layer.out, store};
    each_gradient_block<S>(layer.from_prev, layer.out, sum);
    if (!layer.skip) return;
    sum.H = step.encoding.input();
    sum.gradient += layer.encoding_offset();
    each_gradient_block<S>(layer.from_encoding(), layer.out, sum);
}

// Sums of rows of outputs, one padded row per layer.
template <class S>
struct BiasSums {
    S** rows;

    BiasSums(const Net& net, Arena<S>& memory) : rows(memory.template objects<S*>(net.layers.size())) {
        for (size_t l = 0; l < net.layers.size(); ++l) rows[l] = memory.zeros(padded<S>(net.layers[l].out));
    }
    void store(const Net& net, const Gradients<S>& to) const {
        for (size_t l = 0; l < net.layers.size(); ++l)
            std::copy(rows[l], rows[l] + net.layers[l].out, to.bias[l]);
    }
};

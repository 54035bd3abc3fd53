// The forward sweep of one module over a run of points, a tile at a time.
//
// Included once per instruction set after bank_layers.h (no include guard, see simd.h).

// Whether a run's lanes are better outputs than points: a quarter of the lanes would have no point.
template <class S>
static bool lanes_are_outputs(const Net& net, int64_t n, const S* saved) {
    constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    bool whole =
        MCLNF_VBYTES == 64 && n < L && 4 * n <= 3 * round_up((int)n, W) && !saved && net.layers.size() > 1;
    for (size_t l = 0; l + 1 < net.layers.size(); ++l) whole &= net.layers[l].out % W == 0;
    return whole;
}

// `forward` of few points: the weights are read as they lie, a vector of outputs at a time, and the points'
// values are broadcast. Hidden activations are [points, lanes] for each group of `lanes` outputs; the last
// layer, a narrow one, gets them as a panel.
template <class S>
class ForwardFew {
    static constexpr int L = Panel<S>::lanes, W = Simd<S>::width;

  public:
    ForwardFew(const Net& net, const ModulePoints<S>& in)
        : net_(net),
          in_(in),
          n_((int)in.n),
          memory_(arena<S>()),
          X_(memory_, net.in_dim, 1),
          E_(memory_, net.encoded, 1),
          group_((int64_t)round_up(n_, 8) * L) {
        const int groups = round_up(net.max_dim, L) / L;
        prev_ = memory_.take(groups * group_);
        next_ = memory_.take(groups * group_);
    }

    void run(S* y) {
        const Tile<S> tile(n_);
        load_points(in_.x, tile, X_, net_.in_dim, Pad::kRepeat);
        encode<S>(net_, {X_.values}, {E_.values}, tile.vectors(0));
        for (size_t l = 0; l + 1 < net_.layers.size(); ++l) {
            hidden_layer(l);
            std::swap(prev_, next_);
        }
        output_layer(tile, y);
    }

  private:
    // Products with the weights of layer l from row `row` on as the right factor.
    Product<S> product_of(size_t l, int row, int rows, const Lhs<S>& lhs, int output) {
        const Layer& layer = net_.layers[l];
        const S* weights = in_.parameters.weight[l] + (int64_t)row * layer.out + output;
        Product<S> p{n_,
                     std::min(L, layer.out - output) / W,
                     {rows, lhs, weights, layer.out},
                     next_ + output / L * group_};
        p.bias = row == 0 ? in_.parameters.bias[l] + output : nullptr;
        p.accumulate = true;
        return p;
    }

    void hidden_layer(size_t l) {
        const Layer& layer = net_.layers[l];
        const S* const* next_weight = in_.parameters.next_weight;
        const int blocks = (n_ + kRows - 1) / kRows * (round_up(layer.out, L) / L);
        Prefetch prefetch;
        if (next_weight) prefetch = Prefetch(next_weight[l], layer.weights(), (int64_t)blocks * layer.in);
        const EpilogueKind epilogue = net_.activation == kRelu ? kRectify : kStore;
        const Lhs<S> encoding{E_.values, 1, L};
        for (int o = 0; o < layer.out; o += L) {
            const auto add = [&](int row, int rows, const Lhs<S>& lhs) {
                Product<S> p = product_of(l, row, rows, lhs, o);
                // The last product takes the activation in.
                if (row + rows == layer.in) p.epilogue.kind = epilogue;
                if (next_weight) p.prefetch = &prefetch;
                product(p);
            };
            if (l == 0) add(0, layer.in, encoding);
            for (int k = 0; l > 0 && k < layer.from_prev; k += L)
                add(k, std::min(L, layer.from_prev - k), Lhs<S>{prev_ + k / L * group_, L, 1});
            if (l > 0 && layer.skip) add(layer.from_prev, layer.from_encoding(), encoding);
            if (net_.activation != kRelu && net_.activation != kNone)
                activate<S>(net_.activation, net_.w0, n_, std::min(L, layer.out - o) / W,
                            {next_ + o / L * group_});
        }
    }

    void output_layer(const Tile<S>& tile, S* y) {
        const size_t last = net_.layers.size() - 1;
        const Layer& layer = net_.layers[last];
        S* panel = memory_.take((size_t)round_up(layer.from_prev, L) * L);
        for (int k = 0; k < layer.from_prev; k += L)
            transpose_panel<S>(round_up(n_, 8), std::min(L, layer.from_prev - k), prev_ + k / L * group_, 0,
                               Transposed<S>{panel + k * L, 0}, nullptr);
        const auto* w = layer_weights(net_, in_.parameters, Direction::kForward, n_, memory_);
        const Rows<S> out(memory_, net_.out_dim, 1);
        const int kind = net_.output_activation;
        layer_forward<S>(layer, w[last], in_.parameters.bias[last], {panel, E_.values, tile.vectors(0)},
                         out.values, kind == kRelu ? kRectify : kStore);
        if (kind != kRelu && kind != kNone)
            activate<S>(kind, net_.w0, net_.out_dim, tile.vectors(0), {out.values});
        store_points(out, tile, net_.out_dim, y);
    }

    const Net& net_;
    const ModulePoints<S>& in_;
    const int n_;
    Arena<S>& memory_;
    const Rows<S> X_, E_;
    const int64_t group_;  // values of one group of outputs
    S *prev_, *next_;      // a layer's inputs and outputs
};

template <class S>
static void forward(const Net& net, const ModulePoints<S>& in, S* y, S* saved) {
    constexpr int L = Panel<S>::lanes;
    if (lanes_are_outputs(net, in.n, saved)) return ForwardFew<S>(net, in).run(y);
    Arena<S>& memory = arena<S>();
    const int panels = tile_panels<S>(in.n), layers = (int)net.layers.size();
    const auto* w = layer_weights(net, in.parameters, Direction::kForward, in.n, memory);
    TileActivations<S> at{Rows<S>(memory, net.in_dim, panels), Rows<S>(memory, net.encoded, panels)};
    // Two buffers in turn: the values of a layer are dead once the next one is there.
    S* const buffers[2] = {memory.take((size_t)net.max_dim * panels * L),
                           memory.take((size_t)net.max_dim * panels * L)};
    at.H = memory.template objects<Rows<S>>(layers);
    for (int l = 0; l < layers; ++l) at.H[l] = Rows<S>(buffers[l % 2], net.layers[l].out);
    for (int64_t begin = 0; begin < in.n; begin += panels * L) {
        const Tile<S> tile((int)std::min<int64_t>(panels * L, in.n - begin));
        load_points(in.x + begin * net.in_dim, tile, at.X, net.in_dim, Pad::kRepeat);
        if (saved) place_saved(net, tile, begin, saved, at.H);
        Parameters<S> par = in.parameters;
        if (begin + panels * L < in.n) par.next_weight = nullptr;  // by the last tile alone
        tile_forward<S>(net, par, w, tile, at);
        store_points(at.H[layers - 1], tile, net.out_dim, y + begin * net.out_dim);
    }
}

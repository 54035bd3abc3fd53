// Forward and backward sweeps of one module over a run of points, of weights in bf16 behind the first layer.
//
// Included once per instruction set after bf16_weight_gradient.h and bank_layers.h (no include guard, see
// simd.h). The operands of a product are rounded to bf16: a hidden layer's inputs, its weights, and in
// backward its output gradient. Everything else is fp32: the first layer, coordinates and their encoding with
// every product that they are an operand of, pre-activations, biases, activations and their derivatives,
// outputs, and the gradients of parameters over a run.

// Points of a tile: as many bytes as an fp32 tile has.
static constexpr int kBf16TilePoints = 256;

static int bf16_panels(int64_t n) {
    constexpr int L = Panel<float>::lanes;
    return (int)std::min<int64_t>(kBf16TilePoints / L, (n + L - 1) / L);
}

// The weights of one layer as left factors: of its hidden inputs in pairs, of the features in fp32.
struct Bf16Layer {
    int hidden, features;  // rows of W that the layer before feeds, and the encoding
    const uint32_t *forward, *backward;
    Lhs<float> features_forward, features_backward;
    const float* bias;
};

static const float* widened(const Bf16* from, size_t count, Arena<float>& memory) {
    float* to = memory.take(count);
    for (size_t i = 0; i < count; ++i) to[i] = widen(from[i]);
    return to;
}

// Pairs are always packed, unlike fp32 weights: the pairs of W^T's rows do not lie side by side in memory.
static std::vector<Bf16Layer> bf16_layers(const Net& net, const ModulePoints<Bf16>& in, bool backward,
                                          Arena<uint32_t>& pairs, Arena<float>& memory) {
    std::vector<Bf16Layer> layers;
    for (size_t l = 0; l < net.layers.size(); ++l) {
        const Layer& layer = net.layers[l];
        const Bf16* w = in.parameters.weight[l];
        const int hidden = l > 0 ? layer.from_prev : 0, features = layer.in - hidden;
        uint32_t *forward = pairs.take((size_t)layer.out * pairs_of(hidden)), *rows = nullptr;
        pack_transposed(w, layer.out, hidden, forward);
        const float* wide =
            l == 0 ? in.parameters.first
                   : widened(w + (int64_t)hidden * layer.out, (size_t)features * layer.out, memory);
        const auto lhs = [&](Direction direction) {
            return left_factor<float>(wide, features, layer.out, direction, in.n, memory);
        };
        Lhs<float> into_features{};
        if (backward) {
            rows = pairs.take((size_t)hidden * pairs_of(layer.out));
            pack_rows(w, layer.out, hidden, rows);
            if (features > 0) into_features = lhs(Direction::kBackward);
        }
        layers.push_back({hidden, features, forward, rows,
                          features > 0 ? lhs(Direction::kForward) : Lhs<float>{}, into_features,
                          in.parameters.bias[l]});
    }
    return layers;
}

// A panel of a layer's inputs, and memory for its outputs.
struct Bf16Panel {
    const uint32_t* prev;  // not read of the first layer
    const float* encoding;
    int vectors;
    float* z;           // overwritten in any case; the outputs in fp32 without `pairs`
    uint32_t* pairs;    // the outputs, rounded; null: not asked for
    float* derivative;  // a'(z); null: not asked for
};

static void bf16_layer(const Net& net, int l, const Bf16Layer& w, const Bf16Panel& p) {
    const Layer& layer = net.layers[l];
    const int kind = net.activation_of(l);
    const PairPanel in{p.prev, pairs_of(w.hidden), p.vectors};
    DotResult to;
    if (w.features == 0 && p.pairs && !p.derivative && derivative_in_value(kind)) {
        to.pairs = p.pairs;
        to.epilogue = kind == kRelu ? kRectify : kStore;
        return dot_product(layer.out, w.forward, in, w.bias, to);
    }
    to.rows = p.z;
    if (w.hidden > 0) dot_product(layer.out, w.forward, in, w.bias, to);
    if (w.features > 0) {
        Product<float> of_features{layer.out, p.vectors, {w.features, w.features_forward, p.encoding}, p.z};
        of_features.accumulate = w.hidden > 0;
        of_features.bias = w.hidden > 0 ? nullptr : w.bias;
        product(of_features);
    }
    if (kind != kNone || p.derivative)
        activate<float>(kind, net.w0, layer.out, p.vectors, {p.z, p.derivative});
    if (p.pairs) pair_rows(layer.out, p.vectors, p.z, p.pairs);
}

static void bf16_forward(const Net& net, const ModulePoints<Bf16>& run, float* y, Bf16*) {
    constexpr int L = Panel<float>::lanes;
    Arena<float>& memory = arena<float>();
    Arena<uint32_t>& pairs = arena<uint32_t>();
    const int panels = bf16_panels(run.n), last = (int)net.layers.size() - 1;
    const auto w = bf16_layers(net, run, false, pairs, memory);
    const Rows<float> X(memory, net.in_dim, panels), E(memory, net.encoded, panels);
    float* Z = memory.take((size_t)net.max_dim * L);
    PairRows H(pairs, net.max_dim, panels), next(pairs, net.max_dim, panels);
    for (int64_t begin = 0; begin < run.n; begin += panels * L) {
        const Tile<float> tile((int)std::min<int64_t>(panels * L, run.n - begin));
        load_points(run.x + begin * net.in_dim, tile, X, net.in_dim, Pad::kRepeat);
        for (int p = 0; p < tile.panels; ++p) encode<float>(net, {X.panel(p)}, {E.panel(p)}, tile.vectors(p));
        for (int l = 0; l <= last; ++l) {
            for (int p = 0; p < tile.panels; ++p) {
                bf16_layer(net, l, w[l],
                           {H.panel(p), E.panel(p), tile.vectors(p), Z, l < last ? next.panel(p) : nullptr,
                            nullptr});
                if (l == last)
                    store_points(Rows<float>(Z, net.out_dim), Tile<float>(tile.in_panel(p)), net.out_dim,
                                 y + (begin + p * L) * net.out_dim);
            }
            std::swap(H, next);
        }
    }
}

// The gradients of <grad_y, f> (BankTable). No Fisher sweep: those are fp32.
class Bf16BackwardSweep {
    static constexpr int L = Panel<float>::lanes;

  public:
    Bf16BackwardSweep(const Net& net, const ModulePoints<Bf16>& in, const float* grad_y,
                      const BackwardResults<Bf16>& out)
        : net_(net),
          in_(in),
          grad_y_(grad_y),
          out_(out),
          memory_(arena<float>()),
          pairs_(arena<uint32_t>()),
          last_((int)net.layers.size() - 1),
          panels_(bf16_panels(in.n)),
          weights_(bf16_layers(net, in, true, pairs_, memory_)),
          X_(memory_, net.in_dim, panels_),
          E_(memory_, net.encoded, panels_),
          GE_(memory_, net.encoded, panels_),
          GX_(memory_, net.in_dim, 1),
          dE_(memory_, padded<float>(net.max_dim), panels_),
          dET_(transposed_rows(net.max_dim, panels_, memory_)),
          Z_(memory_.take((size_t)net.max_dim * L)),
          derivative_(memory_.take((size_t)net.out_dim * L)),
          H_(last_ + 1),
          D_(last_ + 1),
          bias_(net, memory_) {
        for (int l = 0; l <= last_; ++l) {
            any_skip_ |= net.layers[l].skip;
            if (l == last_) continue;
            H_[l] = PairRows(pairs_, net.layers[l].out, panels_);
            if (stores_derivative()) D_[l] = Rows<float>(memory_, net.layers[l].out, panels_);
        }
        // Up to whole blocks of the transposition.
        const int wide = round_up(net.max_dim, 16);
        d_ = PairRows(pairs_, wide, panels_);
        g_ = PairRows(pairs_, wide, panels_);
        const int64_t group = (int64_t)panels_ * L * L / 2;
        dT_ = {pairs_.take((size_t)(round_up(wide, L) / L) * group), group};
        rows_ = {pairs_.take((size_t)wide * panels_ * L / 2), panels_ * L / 2};
    }

    void run() {
        for (begin_ = 0; begin_ < in_.n; begin_ += panels_ * L) {
            const Tile<float> tile((int)std::min<int64_t>(panels_ * L, in_.n - begin_));
            forward(tile);
            for (int p = 0; p < tile.panels; ++p) output_gradient(tile, p);
            for (int l = last_; l >= 0; --l) {
                if (out_.grads) parameter_gradients(l, tile);
                if (l == 0 && !out_.grad_x) break;
                for (int p = 0; p < tile.panels; ++p) to_inputs(l, p, tile.vectors(p));
                std::swap(d_, g_);
            }
            if (out_.grad_x) input_gradient(tile);
        }
        if (out_.grads) bias_.store(net_, out_.grads);
    }

  private:
    bool stores_derivative() const { return !derivative_in_value(net_.activation); }
    const uint32_t* input(int l, int p) const { return l > 0 ? H_[l - 1].panel(p) : nullptr; }

    // The encoding and the hidden layers.
    void forward(const Tile<float>& tile) {
        load_points(in_.x + begin_ * net_.in_dim, tile, X_, net_.in_dim, Pad::kRepeat);
        for (int p = 0; p < tile.panels; ++p)
            encode<float>(net_, {X_.panel(p)}, {E_.panel(p)}, tile.vectors(p));
        for (int l = 0; l < last_; ++l)
            for (int p = 0; p < tile.panels; ++p)
                bf16_layer(net_, l, weights_[l],
                           {input(l, p), E_.panel(p), tile.vectors(p), Z_, H_[l].panel(p),
                            stores_derivative() ? D_[l].panel(p) : nullptr});
    }

    // d_ = the gradients of the last layer's pre-activations, rounded.
    void output_gradient(const Tile<float>& tile, int p) {
        const int nv = tile.vectors(p);
        const bool activated = net_.output_activation != kNone;
        if (activated)  // for its derivative alone
            bf16_layer(net_, last_, weights_[last_],
                       {input(last_, p), E_.panel(p), nv, Z_, nullptr, derivative_});
        load_points(grad_y_ + (begin_ + p * L) * net_.out_dim, Tile<float>(tile.in_panel(p)),
                    Rows<float>(Z_, net_.out_dim), net_.out_dim, Pad::kZero);
        for (int i = 0; activated && i < net_.out_dim * L; ++i) Z_[i] *= derivative_[i];
        pair_rows(net_.out_dim, nv, Z_, d_.panel(p));
        if (weights_[last_].features > 0) std::memcpy(dE_.panel(p), Z_, sizeof(float) * net_.out_dim * L);
        if (out_.grad_x && any_skip_) GE_.clear(p);
    }

    void parameter_gradients(int l, const Tile<float>& tile) {
        const Layer& layer = net_.layers[l];
        const Bf16Layer& w = weights_[l];
        if (w.hidden > 0) {
            const int count = pairs_of(tile.points);
            transpose_tile_pairs(tile, d_, layer.out, dT_);
            add_bias(layer.out, count, dT_, bias_.rows[l]);
            unpair_rows(tile, H_[l - 1], rows_);
            const DotWeightGradient sum{rows_, count, dT_, out_.grads.weight[l], layer.out, begin_ > 0};
            each_gradient_block<float>(w.hidden, layer.out, sum);
        }
        if (w.features == 0) return;
        transpose_tile(tile, dE_, layer.out, dET_, w.hidden > 0 ? nullptr : bias_.rows[l]);
        const WeightGradient<float> sum{
            E_.input(),       dET_,
            {0, tile.points}, out_.grads.weight[l] + (int64_t)w.hidden * layer.out,
            layer.out,        begin_ > 0 ? Store::kAdd : Store::kWrite};
        each_gradient_block<float>(w.features, layer.out, sum);
    }

    // g_ = the gradients of the pre-activations of the layer before layer l, rounded, and dE_ those that are
    // not, if that layer reads features. The gradients of the encoding stay fp32: several layers add to them.
    void to_inputs(int l, int p, int vectors) {
        const Layer& layer = net_.layers[l];
        const Bf16Layer& w = weights_[l];
        if (w.features > 0 && out_.grad_x) {
            Product<float> into_features{
                w.features, vectors, {layer.out, w.features_backward, dE_.panel(p)}, GE_.panel(p)};
            into_features.accumulate = any_skip_;
            product(into_features);
        }
        if (w.hidden == 0) return;
        const PairPanel from{d_.panel(p), pairs_of(layer.out), vectors};
        const uint32_t* mask = H_[l - 1].panel(p);
        const float* factor = stores_derivative() ? D_[l - 1].panel(p) : nullptr;
        DotResult to;
        if (weights_[l - 1].features == 0) {
            to.pairs = g_.panel(p);
            to.epilogue = factor ? kScale : net_.activation == kRelu ? kMask : kStore;
            to.mask = mask;
            to.factor = factor;
            return dot_product(w.hidden, w.backward, from, nullptr, to);
        }
        to.rows = dE_.panel(p);
        dot_product(w.hidden, w.backward, from, nullptr, to);
        if (factor || net_.activation == kRelu)
            times_derivative_of(w.hidden, vectors, mask, factor, dE_.panel(p));
        pair_rows(w.hidden, vectors, dE_.panel(p), g_.panel(p));
    }

    void input_gradient(const Tile<float>& tile) {
        for (int p = 0; p < tile.panels; ++p) {
            EncodingBackward<float>{net_, {X_.panel(p)}, E_.panel(p), {GE_.panel(p)}, tile.vectors(p)}.run(
                GX_.values);
            store_points(GX_, Tile<float>(tile.in_panel(p)), net_.in_dim,
                         out_.grad_x + (begin_ + p * L) * net_.in_dim);
        }
    }

    const Net& net_;
    const ModulePoints<Bf16>& in_;
    const float* const grad_y_;
    const BackwardResults<Bf16>& out_;
    Arena<float>& memory_;
    Arena<uint32_t>& pairs_;
    const int last_, panels_;
    const std::vector<Bf16Layer> weights_;
    const Rows<float> X_, E_, GE_, GX_;
    // Gradients of a layer's pre-activations, not rounded: of layers that read features.
    const Rows<float> dE_;
    const Transposed<float> dET_;
    float *const Z_, *const derivative_;  // one panel each: of a layer, and of the outputs
    std::vector<PairRows> H_;
    std::vector<Rows<float>> D_;
    PairRows d_, g_;  // of a layer's pre-activations, and of those of the layer before
    PairsTransposed dT_{};
    PointPairs rows_{};
    const BiasSums<float> bias_;
    bool any_skip_ = false;
    int64_t begin_ = 0;  // the tile's first point
};

static void bf16_backward(const Net& net, const ModulePoints<Bf16>& in, const OutputGradient<Bf16>& output,
                          const BackwardResults<Bf16>& out) {
    Bf16BackwardSweep(net, in, output.grad_y, out).run();
}

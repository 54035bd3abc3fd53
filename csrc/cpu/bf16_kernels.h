// Forward and backward sweeps of one module over a run of points in bf16.
//
// Included once per instruction set after bf16_weight_gradient.h and bank_layers.h (no include guard, see
// simd.h). The operands of a product are rounded to bf16: a layer's inputs, its weights, and in backward its
// output gradient, as in PyTorch's bf16 autograd. Everything else is fp32: pre-activations, biases,
// activations and their derivatives, encodings, and the gradients of parameters over a run.

// Points of a tile: as many bytes as an fp32 tile has.
static constexpr int kBf16TilePoints = 256;

static int bf16_panels(int64_t n) {
    constexpr int L = Panel<float>::lanes;
    return (int)std::min<int64_t>(kBf16TilePoints / L, (n + L - 1) / L);
}

// The weights of one layer, packed as left factors.
struct Bf16Layer {
    const uint32_t* forward;          // W^T
    const uint32_t *prev, *encoding;  // rows of W: of the layer before, and of the encoding in a skip layer
    const float* bias;
};

// Always packed, unlike the fp32 ones: the pairs of W^T's rows do not lie side by side in memory.
static std::vector<Bf16Layer> bf16_layers(const Net& net, const Parameters<Bf16>& par, bool backward,
                                          Arena<uint32_t>& pairs, Arena<float>& memory) {
    std::vector<Bf16Layer> layers;
    for (size_t l = 0; l < net.layers.size(); ++l) {
        const Layer& layer = net.layers[l];
        const Bf16* w = par.weight[l];
        const int below = layer.from_encoding(), prev = pairs_of(layer.from_prev),
                  depth = prev + pairs_of(below);
        uint32_t* forward = pairs.take((size_t)layer.out * depth);
        pack_transposed(w, layer.out, 0, layer.from_prev, depth, 0, forward);
        pack_transposed(w, layer.out, layer.from_prev, below, depth, prev, forward);
        uint32_t *rows = nullptr, *encoding = nullptr;
        if (backward) {
            rows = pairs.take((size_t)layer.from_prev * pairs_of(layer.out));
            encoding = pairs.take((size_t)below * pairs_of(layer.out));
            pack_rows(w, layer.out, 0, layer.from_prev, rows);
            pack_rows(w, layer.out, layer.from_prev, below, encoding);
        }
        float* bias = memory.take(layer.out);
        for (int o = 0; o < layer.out; ++o) bias[o] = widen(par.bias[l][o]);
        layers.push_back({forward, rows, encoding, bias});
    }
    return layers;
}

// A panel of a layer's inputs, and memory for its outputs.
struct Bf16Panel {
    const uint32_t *prev, *encoding;
    int vectors;
    float* z;           // overwritten in any case; the outputs in fp32 without `pairs`
    uint32_t* pairs;    // the outputs, rounded; null: not asked for
    float* derivative;  // a'(z); null: not asked for
};

static void bf16_layer(const Net& net, int l, const Bf16Layer& w, const Bf16Panel& p) {
    const Layer& layer = net.layers[l];
    const int kind = net.activation_of(l);
    const PairInputs in{
        {p.prev, pairs_of(layer.from_prev)}, {p.encoding, pairs_of(layer.from_encoding())}, p.vectors};
    DotResult to;
    if (p.pairs && !p.derivative && derivative_in_value(kind)) {
        to.pairs = p.pairs;
        to.epilogue = kind == kRelu ? kRectify : kStore;
        return dot_product(layer.out, w.forward, in, w.bias, to);
    }
    to.rows = p.z;
    dot_product(layer.out, w.forward, in, w.bias, to);
    if (kind != kNone || p.derivative)
        activate<float>(kind, net.w0, layer.out, p.vectors, {p.z, p.derivative});
    if (p.pairs) pair_rows(layer.out, p.vectors, p.z, p.pairs);
}

static void bf16_forward(const Net& net, const ModulePoints<Bf16>& run, Bf16* y, Bf16*) {
    constexpr int L = Panel<float>::lanes;
    Arena<float>& memory = arena<float>();
    Arena<uint32_t>& pairs = arena<uint32_t>();
    const int panels = bf16_panels(run.n), last = (int)net.layers.size() - 1;
    const auto w = bf16_layers(net, run.parameters, false, pairs, memory);
    float *X = memory.take((size_t)net.in_dim * L), *E = memory.take((size_t)net.encoded * L),
          *Z = memory.take((size_t)net.max_dim * L);
    const PairRows encoded(pairs, net.encoded, panels);
    PairRows H(pairs, net.max_dim, panels), next(pairs, net.max_dim, panels);
    for (int64_t begin = 0; begin < run.n; begin += panels * L) {
        const Tile<float> tile((int)std::min<int64_t>(panels * L, run.n - begin));
        for (int p = 0; p < tile.panels; ++p) {
            load_bf16(run.x + (begin + p * L) * net.in_dim, tile.in_panel(p), X, net.in_dim, Pad::kRepeat);
            encode<float>(net, {X}, {E}, tile.vectors(p));
            pair_rows(net.encoded, tile.vectors(p), E, encoded.panel(p));
        }
        for (int l = 0; l <= last; ++l) {
            const PairRows& prev = l > 0 ? H : encoded;
            for (int p = 0; p < tile.panels; ++p) {
                bf16_layer(net, l, w[l],
                           {prev.panel(p), encoded.panel(p), tile.vectors(p), Z,
                            l < last ? next.panel(p) : nullptr, nullptr});
                if (l == last)
                    store_bf16(Z, tile.in_panel(p), net.out_dim, y + (begin + p * L) * net.out_dim);
            }
            std::swap(H, next);
        }
    }
}

// The gradients of <grad_y, f> (BankTable). No Fisher sweep: those are fp32.
class Bf16BackwardSweep {
    static constexpr int L = Panel<float>::lanes;

  public:
    Bf16BackwardSweep(const Net& net, const ModulePoints<Bf16>& in, const Bf16* grad_y,
                      const BackwardResults<Bf16>& out)
        : net_(net),
          in_(in),
          grad_y_(grad_y),
          out_(out),
          memory_(arena<float>()),
          pairs_(arena<uint32_t>()),
          last_((int)net.layers.size() - 1),
          panels_(bf16_panels(in.n)),
          weights_(bf16_layers(net, in.parameters, true, pairs_, memory_)),
          X_(memory_, net.in_dim, panels_),
          E_(memory_, net.encoded, panels_),
          GE_(memory_, net.encoded, panels_),
          GX_(memory_, net.in_dim, 1),
          Z_(memory_.take((size_t)net.max_dim * L)),
          derivative_(memory_.take((size_t)net.out_dim * L)),
          encoded_(pairs_, net.encoded, panels_),
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
    const PairRows& input(int l) const { return l > 0 ? H_[l - 1] : encoded_; }

    // The encoding and the hidden layers.
    void forward(const Tile<float>& tile) {
        for (int p = 0; p < tile.panels; ++p) {
            load_bf16(in_.x + (begin_ + p * L) * net_.in_dim, tile.in_panel(p), X_.panel(p), net_.in_dim,
                      Pad::kRepeat);
            encode<float>(net_, {X_.panel(p)}, {E_.panel(p)}, tile.vectors(p));
            pair_rows(net_.encoded, tile.vectors(p), E_.panel(p), encoded_.panel(p));
        }
        for (int l = 0; l < last_; ++l)
            for (int p = 0; p < tile.panels; ++p)
                bf16_layer(net_, l, weights_[l],
                           {input(l).panel(p), encoded_.panel(p), tile.vectors(p), Z_, H_[l].panel(p),
                            stores_derivative() ? D_[l].panel(p) : nullptr});
    }

    // d_ = the gradients of the last layer's pre-activations, rounded.
    void output_gradient(const Tile<float>& tile, int p) {
        const int nv = tile.vectors(p);
        const bool activated = net_.output_activation != kNone;
        if (activated)  // for its derivative alone
            bf16_layer(net_, last_, weights_[last_],
                       {input(last_).panel(p), encoded_.panel(p), nv, Z_, nullptr, derivative_});
        load_bf16(grad_y_ + (begin_ + p * L) * net_.out_dim, tile.in_panel(p), Z_, net_.out_dim, Pad::kZero);
        for (int i = 0; activated && i < net_.out_dim * L; ++i) Z_[i] *= derivative_[i];
        pair_rows(net_.out_dim, nv, Z_, d_.panel(p));
        if (out_.grad_x && any_skip_) GE_.clear(p);
    }

    void parameter_gradients(int l, const Tile<float>& tile) {
        const Layer& layer = net_.layers[l];
        const int count = pairs_of(tile.points);
        transpose_tile_pairs(tile, d_, layer.out, dT_);
        add_bias(layer.out, count, dT_, bias_.rows[l]);
        DotWeightGradient sum{rows_, count, dT_, out_.grads.weight[l], layer.out, begin_ > 0};
        unpair_rows(tile, input(l), rows_);
        each_gradient_block<float>(layer.from_prev, layer.out, sum);
        if (!layer.skip) return;
        unpair_rows(tile, encoded_, rows_);
        sum.gradient += layer.encoding_offset();
        each_gradient_block<float>(layer.from_encoding(), layer.out, sum);
    }

    // g_ = the gradients of the pre-activations of the layer before layer l, rounded; those of the encoding
    // stay fp32, since several layers add to them.
    void to_inputs(int l, int p, int vectors) {
        const Layer& layer = net_.layers[l];
        const PairInputs from{{d_.panel(p), pairs_of(layer.out)}, {}, vectors};
        DotResult to, into_encoding;
        into_encoding.rows = out_.grad_x ? GE_.panel(p) : nullptr;
        into_encoding.accumulate = any_skip_;
        if (l > 0) {
            to.pairs = g_.panel(p);
            to.epilogue = stores_derivative() ? kScale : net_.activation == kRelu ? kMask : kStore;
            to.mask = H_[l - 1].panel(p);
            to.factor = stores_derivative() ? D_[l - 1].panel(p) : nullptr;
        }
        dot_product(layer.from_prev, weights_[l].prev, from, nullptr, l > 0 ? to : into_encoding);
        if (layer.skip && out_.grad_x)
            dot_product(layer.from_encoding(), weights_[l].encoding, from, nullptr, into_encoding);
    }

    void input_gradient(const Tile<float>& tile) {
        for (int p = 0; p < tile.panels; ++p) {
            EncodingBackward<float>{net_, {X_.panel(p)}, E_.panel(p), {GE_.panel(p)}, tile.vectors(p)}.run(
                GX_.values);
            store_bf16(GX_.values, tile.in_panel(p), net_.in_dim,
                       out_.grad_x + (begin_ + p * L) * net_.in_dim);
        }
    }

    const Net& net_;
    const ModulePoints<Bf16>& in_;
    const Bf16* const grad_y_;
    const BackwardResults<Bf16>& out_;
    Arena<float>& memory_;
    Arena<uint32_t>& pairs_;
    const int last_, panels_;
    const std::vector<Bf16Layer> weights_;
    const Rows<float> X_, E_, GE_, GX_;
    float *const Z_, *const derivative_;  // one panel each: of a layer, and of the outputs
    const PairRows encoded_;
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

// The derivative of the backward sweep along a direction, by Pearlmutter's R-operator.
//
// Included once per instruction set after bank_backward.h (no include guard, see simd.h). Every quantity of
// the backward sweep goes with its tangent, named with a t behind it: H and Ht, d and dt. Twice the products,
// each of a tangent fused with that of another operand, and no graph of the backward in memory.

// d <- d a'(z) and dt <- dt a'(z) + d (a''(z) zt): the gradients of a layer's pre-activations and their
// tangents from those of its outputs. C holds a''(z) zt.
template <class S>
static void times_derivatives(const Tile<S>& tile, int kind, const TileActivations<S>& at, const Rows<S>& C,
                              int l, const Rows<S>& d, const Rows<S>& dt) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    const Rows<S>&H = at.H[l], &D = at.D[l];
    if (derivative_in_value(kind)) {
        times_derivative(tile, kind, H, D, d);
        times_derivative(tile, kind, H, D, dt);
        return;
    }
    for (int p = 0; p < tile.panels; ++p)
        for (int r = 0; r < H.rows; ++r)
            for (int v = 0; v < tile.vectors(p); ++v) {
                const int i = r * L + v * W;
                const Vec<S> g = vload(d.panel(p) + i), a = vload(D.panel(p) + i);
                vstore(d.panel(p) + i, g * a);
                vstore(dt.panel(p) + i, vfma(g, vload(C.panel(p) + i), vload(dt.panel(p) + i) * a));
            }
}

template <class S>
class SecondSweep {
    static constexpr int L = Panel<S>::lanes;
    // Panels of a tile. Two are no faster: a tile holds so much that the weights do not stay in the cache
    // beside it.
    static constexpr int kPanels = 1;

  public:
    SecondSweep(const Net& net, const ModulePoints<S>& in, const OutputGradient<S>& output,
                const Tangents<S>& tangents, const SecondResults<S>& out)
        : net_(net),
          in_(in),
          output_(output),
          tangents_(tangents),
          out_(out),
          memory_(arena<S>()),
          last_((int)net.layers.size() - 1),
          w_(layer_weights(net, in.parameters, Direction::kForward, in.n, memory_)),
          wt_(layer_weights(net, tangents.parameters, Direction::kForward, in.n, memory_)),
          back_(layer_weights(net, in.parameters, Direction::kBackward, in.n, memory_)),
          backt_(layer_weights(net, tangents.parameters, Direction::kBackward, in.n, memory_)),
          Xt_(rows_if(tangents.x, net.in_dim)),
          Et_(rows_if(tangents.x, net.encoded)),
          GX_(rows_if(out.grad_x, net.in_dim)),
          GE_(rows_if(out.grad_x, net.encoded)),
          GEt_(rows_if(out.grad_x, net.encoded)),
          d_(memory_, round_up(net.max_dim, 16), kPanels),
          dt_(memory_, round_up(net.max_dim, 16), kPanels),
          g_(memory_, round_up(net.max_dim, 16), kPanels),
          gt_(memory_, round_up(net.max_dim, 16), kPanels),
          dT_(transposed_rows(net.max_dim, kPanels, memory_)),
          dtT_(transposed_rows(net.max_dim, kPanels, memory_)),
          bias_(net, memory_),
          squared_error_(output, net.out_dim, kPanels, memory_) {
        at_.X = Rows<S>(memory_, net.in_dim, kPanels);
        at_.E = Rows<S>(memory_, net.encoded, kPanels);
        const auto per_layer = [&] { return memory_.template objects<Rows<S>>(net.layers.size()); };
        at_.H = per_layer(), Ht_ = per_layer(), at_.D = per_layer(), C_ = per_layer();
        for (int l = 0; l <= last_; ++l) {
            const int out_dim = net.layers[l].out;
            at_.H[l] = Rows<S>(memory_, out_dim, kPanels);
            Ht_[l] = Rows<S>(memory_, out_dim, kPanels);
            if (derivative_in_value(net.activation_of(l))) continue;
            at_.D[l] = Rows<S>(memory_, out_dim, kPanels);
            C_[l] = Rows<S>(memory_, out_dim, kPanels);
        }
        if (out.grads) narrow_ = NarrowGradient<S>(net.layers[last_], memory_);
    }

    void run() {
        for (begin_ = 0; begin_ < in_.n; begin_ += kPanels * L) {
            const Tile<S> tile((int)std::min<int64_t>(kPanels * L, in_.n - begin_));
            load(tile);
            for (int l = 0; l <= last_; ++l) forward_layer(l, tile);
            if (out_.grad_grad_y)
                store_points(Ht_[last_], tile, net_.out_dim, out_.grad_grad_y + begin_ * net_.out_dim);
            output_gradient(tile);
            for (int l = last_; l >= 0; --l) {
                if (out_.grads) parameter_gradients(l, tile);
                if (l == 0 && !out_.grad_x) break;
                to_inputs(l, tile);
                std::swap(d_, g_);
                std::swap(dt_, gt_);
            }
            if (out_.grad_x) input_gradient(tile);
        }
        if (out_.grads) bias_.store(net_, out_.grads);
        if (narrow_) narrow_.store(out_.grads.weight[last_], out_.grads.bias[last_]);
    }

  private:
    Rows<S> rows_if(const S* wanted, int count) {
        return wanted ? Rows<S>(memory_, count, kPanels) : Rows<S>();
    }

    void load(const Tile<S>& tile) {
        load_points(in_.x + begin_ * net_.in_dim, tile, at_.X, net_.in_dim, Pad::kRepeat);
        if (tangents_.x) load_points(tangents_.x + begin_ * net_.in_dim, tile, Xt_, net_.in_dim, Pad::kZero);
        for (int p = 0; p < tile.panels; ++p)
            encode<S>(net_, {at_.X.panel(p), Xt_.panel_or_none(p)}, {at_.E.panel(p), Et_.panel_or_none(p)},
                      tile.vectors(p));
    }

    // Memory that layer l's products prefetch: a run of few points per module waits for its way as long as
    // for the product. Null: a line that is read anyway.
    Prefetch prefetch(int l, const S* values, const Tile<S>& tile) const {
        const Layer& layer = net_.layers[l];
        const int64_t steps = (int64_t)(layer.out + kRows - 1) / kRows * layer.from_prev * tile.panels;
        return values ? Prefetch(values, layer.weights(), steps) : Prefetch(w_[l].prev.values, 0, 1);
    }

    void forward_layer(int l, const Tile<S>& tile) {
        const Layer& layer = net_.layers[l];
        const int kind = net_.activation_of(l);
        const bool ends = begin_ + kPanels * L >= in_.n;
        const auto next = [&](const Parameters<S>& par) {
            return ends && par.next_weight ? par.next_weight[l] : nullptr;
        };
        const S* soon = next(in_.parameters);
        if (!soon && begin_ == 0 && out_.grads) soon = out_.grads.weight[l];
        Prefetch values = prefetch(l, soon, tile), along = prefetch(l, next(tangents_.parameters), tile);
        for (int p = 0; p < tile.panels; ++p) {
            const InputPanel<S> in{at_.input(l).panel(p), at_.E.panel(p), tile.vectors(p)};
            S *z = at_.H[l].panel(p), *zt = Ht_[l].panel(p);
            layer_forward<S>(layer, w_[l], in_.parameters.bias[l], in, z, kind == kRelu ? kRectify : kStore,
                             &values);
            forward_tangent(l, in, p, kind, &along);
            if (!derivative_in_value(kind))
                activate<S>(kind, net_.w0, layer.out, in.vectors, {z, at_.D[l].panel(p), zt, C_[l].panel(p)});
        }
    }

    // zt = Wt^T h + bt + W^T ht; the last product takes relu's derivative in.
    void forward_tangent(int l, const InputPanel<S>& in, int p, int kind, Prefetch* prefetch) {
        const Layer& layer = net_.layers[l];
        const S* prevt = (l > 0 ? Ht_[l - 1] : Et_).panel_or_none(p);
        S* zt = Ht_[l].panel(p);
        const Epilogue<S> epilogue{kind == kRelu ? kMask : kStore, at_.H[l].panel(p)};
        Product<S> from_prev{layer.out, in.vectors, {layer.from_prev, wt_[l].prev, in.prev}, zt};
        from_prev.bias = tangents_.parameters.bias[l];
        from_prev.prefetch = prefetch;
        if (prevt) from_prev.fused = {layer.from_prev, w_[l].prev, prevt};
        if (!layer.skip) from_prev.epilogue = epilogue;
        product(from_prev);
        if (!layer.skip) return;
        const int rows = layer.from_encoding();
        Product<S> from_encoding{layer.out, in.vectors, {rows, wt_[l].encoding, in.encoding}, zt};
        from_encoding.accumulate = true;
        from_encoding.epilogue = epilogue;
        if (tangents_.x) from_encoding.fused = {rows, w_[l].encoding, Et_.panel(p)};
        product(from_encoding);
    }

    // d_ and dt_ of the last layer's pre-activations.
    void output_gradient(const Tile<S>& tile) {
        d_.rows = dt_.rows = padded<S>(net_.out_dim);
        if (output_.grad_y) {
            load_points(output_.grad_y + begin_ * net_.out_dim, tile, d_, net_.out_dim, Pad::kZero);
            for (int p = 0; p < tile.panels; ++p) dt_.clear(p);
        } else {
            squared_error_.gradient(tile, begin_, at_.H[last_], d_, &Ht_[last_], &dt_);
        }
        for (int p = 0; out_.grad_x && p < tile.panels; ++p) {
            GE_.clear(p);
            GEt_.clear(p);
        }
        times_derivatives(tile, net_.output_activation, at_, C_[last_], last_, d_, dt_);
    }

    // dt h^T + d ht^T
    void parameter_gradients(int l, const Tile<S>& tile) {
        const Layer& layer = net_.layers[l];
        const Rows<S>&h = at_.input(l), &ht = l > 0 ? Ht_[l - 1] : Et_;
        if (l == last_ && narrow_) {
            narrow_.add(tile, h, dt_, true);
            if (ht) narrow_.add(tile, ht, d_, false);
            return;
        }
        transpose_tile(tile, dt_, layer.out, dtT_, bias_.rows[l]);
        if (ht) transpose_tile<S>(tile, d_, layer.out, dT_, nullptr);
        WeightGradient<S> sum{h.input(),        dtT_,
                              {0, tile.points}, out_.grads.weight[l],
                              layer.out,        begin_ > 0 ? Store::kAdd : Store::kWrite,
                              ht.input(),       dT_};
        each_gradient_block<S>(layer.from_prev, layer.out, sum);
        if (!layer.skip) return;
        sum.H = at_.E.input();
        sum.H2 = Et_.input();
        sum.gradient += layer.encoding_offset();
        each_gradient_block<S>(layer.from_encoding(), layer.out, sum);
    }

    // g = (W d) a', gt = (W dt + Wt d) a' + (W d) (a'' zt), of layer l's inputs.
    void to_inputs(int l, const Tile<S>& tile) {
        const Layer& layer = net_.layers[l];
        const int kind = net_.activation;
        g_.rows = gt_.rows = l > 0 ? padded<S>(layer.from_prev) : 0;
        for (int p = 0; p < tile.panels; ++p) {
            const int nv = tile.vectors(p);
            const S *d = d_.panel(p), *dt = dt_.panel(p);
            Product<S> g{
                layer.from_prev, nv, {layer.out, back_[l].prev, d}, l > 0 ? g_.panel(p) : GE_.panel(p)};
            Product<S> gt{
                layer.from_prev, nv, {layer.out, back_[l].prev, dt}, l > 0 ? gt_.panel(p) : GEt_.panel(p)};
            gt.fused = {layer.out, backt_[l].prev, d};
            g.accumulate = gt.accumulate = l == 0;
            if (l > 0 && kind == kRelu) g.epilogue = gt.epilogue = {kMask, at_.H[l - 1].panel(p)};
            if (l > 0 && !derivative_in_value(kind)) {
                // W d is scaled twice while it is in registers, by a' and by a'' zt; gt adds to the latter.
                const S* first = at_.D[l - 1].panel(p);
                g.epilogue = {kScaleTwice, first, C_[l - 1].panel(p), gt.C};
                gt.epilogue = {kScaleAdd, first};
            }
            product(g);
            product(gt);
            if (layer.skip && out_.grad_x) to_encoding(l, p, nv);
        }
    }

    void to_encoding(int l, int p, int vectors) {
        const Layer& layer = net_.layers[l];
        const int rows = layer.from_encoding();
        Product<S> g{rows, vectors, {layer.out, back_[l].encoding, d_.panel(p)}, GE_.panel(p)};
        Product<S> gt{rows, vectors, {layer.out, back_[l].encoding, dt_.panel(p)}, GEt_.panel(p)};
        gt.fused = {layer.out, backt_[l].encoding, d_.panel(p)};
        g.accumulate = gt.accumulate = true;
        product(g);
        product(gt);
    }

    void input_gradient(const Tile<S>& tile) {
        for (int p = 0; p < tile.panels; ++p)
            EncodingBackward<S>{net_,
                                {at_.X.panel(p), Xt_.panel_or_none(p)},
                                at_.E.panel(p),
                                {GE_.panel(p), GEt_.panel(p)},
                                tile.vectors(p)}
                .run(GX_.panel(p));
        store_points(GX_, tile, net_.in_dim, out_.grad_x + begin_ * net_.in_dim);
    }

    const Net& net_;
    const ModulePoints<S>& in_;
    const OutputGradient<S>& output_;
    const Tangents<S>& tangents_;
    const SecondResults<S>& out_;
    Arena<S>& memory_;
    const int last_;
    const LayerWeights<S>*w_, *wt_, *back_, *backt_;
    TileActivations<S> at_;
    const Rows<S> Xt_, Et_;
    const Rows<S> GX_, GE_, GEt_;  // gradients of the coordinates and of their encoding
    Rows<S>*Ht_, *C_;              // C_: a''(z) zt, by which d reaches dt; none of relu
    Rows<S> d_, dt_, g_, gt_;      // of a layer's pre-activations, and of those of the layer before
    const Transposed<S> dT_, dtT_;
    const BiasSums<S> bias_;
    NarrowGradient<S> narrow_;
    const SquaredError<S> squared_error_;
    int64_t begin_ = 0;  // the tile's first point
};

template <class S>
static void second(const Net& net, const ModulePoints<S>& in, const OutputGradient<S>& output,
                   const Tangents<S>& tangents, const SecondResults<S>& out) {
    SecondSweep<S>(net, in, output, tangents, out).run();
}

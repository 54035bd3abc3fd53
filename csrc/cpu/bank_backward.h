// The backward sweep, with Fisher scores and squares if asked for.
//
// Included once per instruction set after bank_layers.h, squared_error.h, ray_errors.h, fisher_tile.h and
// narrow_gradient.h (no include guard, see simd.h). A tile's activations are computed again instead of being
// saved between forward and backward: a layer's product costs less than its activations' way to memory and
// back, and memory is bounded by one tile per thread. Saved ones (relu alone) are read.

// d <- d a'(z), for a derivative that no product's epilogue has taken in.
template <class S>
static void times_derivative(const Tile<S>& tile, int kind, const Rows<S>& H, const Rows<S>& D,
                             const Rows<S>& d) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    if (kind == kNone) return;
    for (int p = 0; p < tile.panels; ++p) {
        const int nv = tile.vectors(p);
        const S* h = kind == kRelu ? H.panel(p) : D.panel(p);
        S* g = d.panel(p);
        for (int r = 0; r < H.rows; ++r)
            for (int v = 0; v < nv; ++v) {
                const int i = r * L + v * W;
                const Vec<S> zero = {};
                const Vec<S> gv = vload(g + i), hv = vload(h + i);
                vstore(g + i, kind == kRelu ? (hv > zero ? gv : zero) : gv * hv);
            }
    }
}

// Pairwise, in an order that depends on the width alone.
template <class S>
static S sum_lanes(S* lanes) {
    for (int half = Simd<S>::width / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

template <class S>
class BackwardSweep {
    static constexpr int L = Panel<S>::lanes, W = Simd<S>::width;

  public:
    BackwardSweep(const Net& net, const ModulePoints<S>& in, const OutputGradient<S>& output,
                  const BackwardResults<S>& out)
        : net_(net),
          in_(in),
          output_(output),
          out_(out),
          memory_(arena<S>()),
          last_((int)net.layers.size() - 1),
          pieces_(output.pixels ? output.pixels->rays : out.fisher.segments),
          piece_count_(output.pixels ? output.pixels->count : out.fisher.count),
          panels_(panels_of_run()),
          weights_(layer_weights(net, in.parameters, Direction::kForward, in.n, memory_)),
          back_(layer_weights(net, in.parameters, Direction::kBackward, in.n, memory_)),
          GX_(memory_, net.in_dim, panels_),
          GE_(memory_, net.encoded, panels_),
          d_(memory_, round_up(net.max_dim, 16), panels_),
          g_(memory_, round_up(net.max_dim, 16), panels_),
          dT_(transposed_rows(net.max_dim, panels_, memory_)),
          bias_(net, memory_),
          fisher_(out.fisher, net, panels_, in.n, memory_),
          squared_error_(output, net.out_dim, panels_, memory_) {
        at_.X = Rows<S>(memory_, net.in_dim, panels_);
        at_.E = Rows<S>(memory_, net.encoded, panels_);
        at_.H = memory_.template objects<Rows<S>>(net.layers.size());
        at_.D = memory_.template objects<Rows<S>>(net.layers.size());
        for (int l = 0; l <= last_; ++l) {
            at_.H[l] = Rows<S>(memory_, net.layers[l].out, panels_);
            if (!derivative_in_value(net.activation_of(l)))
                at_.D[l] = Rows<S>(memory_, net.layers[l].out, panels_);
            any_skip_ |= net.layers[l].skip;
        }
        if (out.grads && !out.fisher.segments) narrow_ = NarrowGradient<S>(net.layers[last_], memory_);
        if (output.pixels) ray_errors_ = RayErrors<S>(*output.pixels, output.scale, panels_, memory_);
        // With saved activations, the last layer alone is computed, and not even that one if nothing needs
        // its values.
        if (in.saved) first_layer_ = net.output_activation == kNone && output.grad_y ? last_ + 1 : last_;
    }

    void run() {
        while (advance()) {
            const Tile<S> tile(range_.points());
            if (out_.fisher) clear_scores();
            forward(tile);
            output_gradient(tile);
            for (int l = last_; l >= 0 && (out_.grads || out_.grad_x || out_.fisher); --l) {
                parameter_gradients(l, tile);
                if (l == 0 && !out_.grad_x) break;
                to_inputs(l, tile);
                std::swap(d_, g_);
            }
            if (out_.grad_x) input_gradient(tile);
            if (out_.fisher.scores) store_scores(tile);
        }
        store_sums();
    }

  private:
    // Panels of a tile: of the usual size, or as many as the longest ray or segment needs, which is not cut.
    int panels_of_run() const {
        int64_t longest = 0;
        for (int64_t s = 0; pieces_ && s < piece_count_; ++s)
            longest = std::max(longest, pieces_[s + 1] - pieces_[s]);
        return std::max(tile_panels<S>(in_.n), (int)((longest + L - 1) / L));
    }

    // Moves `range_` on to the next tile. Rays of no point at all have an error too, so that pieces may be
    // left when no point is.
    bool advance() {
        range_.begin = range_.end;
        range_.first_piece = range_.end_piece;
        if (range_.begin >= in_.n && !(output_.pixels && range_.first_piece < piece_count_)) return false;
        if (pieces_) {
            while (range_.end_piece < piece_count_ &&
                   pieces_[range_.end_piece + 1] - range_.begin <= panels_ * L)
                ++range_.end_piece;
            range_.end = pieces_[range_.end_piece];
        } else {
            range_.end = std::min<int64_t>(range_.begin + panels_ * L, in_.n);
        }
        return true;
    }
    bool first_tile() const { return range_.begin == 0; }
    bool last_tile() const { return range_.end >= in_.n; }

    void forward(const Tile<S>& tile) {
        load_points(in_.x + range_.begin * net_.in_dim, tile, at_.X, net_.in_dim, Pad::kRepeat);
        if (in_.saved) place_saved(net_, tile, range_.begin, const_cast<S*>(in_.saved), at_.H);
        Parameters<S> par = in_.parameters;
        // The last tile prefetches the next module's weights. Those before it have the gradients' memory
        // prefetched by the first, which is about to write it; streamed ones never enter the cache.
        if (!last_tile())
            par.next_weight = !first_tile() || !out_.grads || out_.grads.stream ? nullptr : out_.grads.weight;
        tile_forward<S>(net_, par, weights_, tile, at_, first_layer_);
    }

    // d_ = the gradients of the last layer's pre-activations.
    void output_gradient(const Tile<S>& tile) {
        d_.rows = padded<S>(net_.out_dim);
        const Rows<S>& y = at_.H[last_];
        if (output_.grad_y)
            load_points(output_.grad_y + range_.begin * net_.out_dim, tile, d_, net_.out_dim, Pad::kZero);
        else if (output_.pixels)
            error_ += ray_errors_.gradient(tile, range_, y, d_);
        else
            error_ += squared_error_.gradient(tile, range_.begin, y, d_);
        for (int p = 0; out_.grad_x && any_skip_ && p < tile.panels; ++p) GE_.clear(p);
        times_derivative(tile, net_.output_activation, y, at_.D[last_], d_);
    }

    // Adds layer l's share to the gradients of its parameters, to scores and squares.
    void parameter_gradients(int l, const Tile<S>& tile) {
        const bool by_segment = out_.fisher.segments, narrow = l == last_ && narrow_;
        const LayerStep<S> step{l, net_.layers[l], tile, at_.input(l), at_.E, d_, dT_, !first_tile()};
        if (narrow)
            narrow_.add(tile, step.input, d_, true);
        else if (out_.grads || by_segment)
            transpose_tile(tile, d_, step.layer.out, dT_,
                           by_segment || !out_.grads ? nullptr : bias_.rows[l]);
        if (by_segment)
            fisher_.segments(step, range_, out_.grads, bias_.rows[l], score_.data());
        else if (out_.grads && !narrow)
            add_weight_gradients(step, out_.grads.weight[l], store_of(step.layer, out_.grads.weight[l]));
        if (out_.fisher && !by_segment) fisher_.points(step, score_.data());
    }

    Store store_of(const Layer& layer, const S* gradient) const {
        constexpr uintptr_t bytes = MCLNF_VBYTES;
        if (!first_tile()) return Store::kAdd;
        // Streaming wants whole vectors, and values that no later tile adds to.
        const bool streams = out_.grads.stream && last_tile() && layer.out % W == 0 &&
                             reinterpret_cast<uintptr_t>(gradient) % bytes == 0;
        return streams ? Store::kStream : Store::kWrite;
    }

    // g_ = the gradients of the pre-activations of the layer before layer l or, of the first layer, those of
    // the encoding; the product's epilogue takes in the activation's derivative.
    void to_inputs(int l, const Tile<S>& tile) {
        const Layer& layer = net_.layers[l];
        const int kind = net_.activation;
        g_.rows = l > 0 ? padded<S>(layer.from_prev) : 0;
        for (int p = 0; p < tile.panels; ++p) {
            InputGradient<S> to{l > 0 ? g_.panel(p) : GE_.panel(p),
                                out_.grad_x && l > 0 ? GE_.panel(p) : nullptr, l == 0 && any_skip_};
            if (l > 0 && kind == kRelu) to.epilogue = {kMask, at_.H[l - 1].panel(p)};
            if (l > 0 && !derivative_in_value(kind)) to.epilogue = {kScale, at_.D[l - 1].panel(p)};
            layer_backward<S>(layer, back_[l], d_.panel(p), tile.vectors(p), to);
        }
    }

    void input_gradient(const Tile<S>& tile) {
        for (int p = 0; p < tile.panels; ++p)
            EncodingBackward<S>{net_, {at_.X.panel(p)}, at_.E.panel(p), {GE_.panel(p)}, tile.vectors(p)}.run(
                GX_.panel(p));
        store_points(GX_, tile, net_.in_dim, out_.grad_x + range_.begin * net_.in_dim);
    }

    // A vector per segment, or a value per point.
    void clear_scores() {
        const int64_t segments = range_.end_piece - range_.first_piece;
        score_.assign(out_.fisher.segments ? segments * W : (size_t)panels_ * L, S(0));
    }
    void store_scores(const Tile<S>& tile) {
        const FisherSweep<S>& fisher = out_.fisher;
        if (fisher.segments)
            for (int64_t s = range_.first_piece; s < range_.end_piece; ++s)
                fisher.scores[s] = sum_lanes<S>(&score_[(s - range_.first_piece) * W]);
        else
            std::copy(score_.begin(), score_.begin() + tile.points, fisher.scores + range_.begin);
    }

    void store_sums() {
        if (out_.error) *out_.error = error_ * double(output_.scale);
        if (out_.grads) bias_.store(net_, out_.grads);
        if (narrow_) narrow_.store(out_.grads.weight[last_], out_.grads.bias[last_]);
        fisher_.store_bias_squares();
    }

    const Net& net_;
    const ModulePoints<S>& in_;
    const OutputGradient<S>& output_;
    const BackwardResults<S>& out_;
    Arena<S>& memory_;
    const int last_;
    const int64_t* const pieces_;  // rays or segments; null: none
    const int64_t piece_count_;
    const int panels_;  // of a tile, at most
    const LayerWeights<S>*weights_, *back_;
    TileActivations<S> at_;
    const Rows<S> GX_, GE_;  // gradients of the coordinates and of their encoding
    Rows<S> d_, g_;          // of a layer's pre-activations, and of those of the layer before
    const Transposed<S> dT_;
    const BiasSums<S> bias_;
    NarrowGradient<S> narrow_;
    FisherTile<S> fisher_;
    const SquaredError<S> squared_error_;
    RayErrors<S> ray_errors_;
    bool any_skip_ = false;
    int first_layer_ = 0;  // the layers before it are saved
    TileRange range_;
    std::vector<S> score_;
    double error_ = 0;
};

template <class S>
static void backward(const Net& net, const ModulePoints<S>& in, const OutputGradient<S>& output,
                     const BackwardResults<S>& out) {
    BackwardSweep<S>(net, in, output, out).run();
}

// Fisher scores and squares of a layer over a tile.
//
// Included once per instruction set after bank_layers.h (no include guard, see simd.h). With
// g a sample's own gradient, its score is sum g^2 / F and the diagonal Fisher is the sum of g^2 over samples;
// no sample's gradient is stored beyond the block at hand: N of them would be N times the parameters.

// The weight gradient of one sample, of which a block is formed in registers, added to the sample's score and
// to the sums, and dropped.
template <class S>
struct SampleGradient {
    static constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    LayerInput<S> H;
    PointRange points;
    Transposed<S> D;
    int outputs;
    bool accumulate;
    const S* inverse;      // null: no score
    S *gradient, *square;  // null: no sums
    S* score;              // a vector, whose lanes the caller adds up

    template <int RM, int NV>
    MCLNF_MEMBER void block(int i, int o) const {
        const int64_t first = (int64_t)i * outputs + o;
        const int left = outputs - o;
        Vec<S> total = {};
        S sums[RM][NV * W];
        {
            Vec<S> sum[RM][NV];
            clear_block<S, RM, NV>(sum);
            add_weight_gradient<S, RM, NV>(H, i, points, D.row(0, o), sum);
            store_registers<S, RM, NV>(sum, sums);
        }
        for (int r = 0; r < RM; ++r)
            for (int v = 0; v < NV; ++v) {
                const int64_t p = first + (int64_t)r * outputs + v * W;
                const int count = left - v * W;
                const Vec<S> g = vload(sums[r] + v * W);
                if (inverse) total = vfma(g * g, vload_part(inverse + p, count), total);
                if (!gradient) continue;
                const Vec<S> before = accumulate ? vload_part(gradient + p, count) : Vec<S>{},
                             squares = accumulate ? vload_part(square + p, count) : Vec<S>{};
                vstore_part(gradient + p, g + before, count);
                vstore_part(square + p, vfma(g, g, squares), count);
            }
        if (inverse) vstore(score, vload(score) + total);
    }

    // The same for the rows that the encoding feeds, `weights` further on in the layer's weight.
    SampleGradient of_encoding(const LayerInput<S>& encoding, int64_t weights) const {
        SampleGradient sample = *this;
        sample.H = encoding;
        if (inverse) sample.inverse += weights;
        if (gradient) {
            sample.gradient += weights;
            sample.square += weights;
        }
        return sample;
    }
};

template <class S>
class FisherTile {
    static constexpr int L = Panel<S>::lanes, W = Simd<S>::width;

  public:
    FisherTile(const FisherSweep<S>& sweep, const Net& net, int panels, int64_t points, Arena<S>& memory)
        : sweep_(sweep), net_(net), squares_(net, memory) {
        if (!sweep || sweep.segments) return;
        const int wide = round_up(net.max_dim, 16);
        d_squared_ = Rows<S>(memory, wide, panels);
        h_squared_ = Rows<S>(memory, wide, panels);
        e_squared_ = Rows<S>(memory, net.encoded, panels);
        product_ = Rows<S>(memory, wide, panels);
        if (sweep.inverse) inverse_ = layer_weights(net, sweep.inverse, Direction::kBackward, points, memory);
    }

    // One point = one sample. A point's weight gradient is an outer product, so that the squares of its
    // values are one too: score = rowsum(((d d) (1/F)^T) * (h h)), one matrix product per layer.
    void points(const LayerStep<S>& step, S* score) {
        const Layer& layer = step.layer;
        const Rows<S> d = d_squared_.resized(padded<S>(layer.out)), h = h_squared_.resized(layer.from_prev);
        square(step.tile, step.d, layer.out, d);
        multiply(step.tile, step.input, step.input, h);
        if (layer.skip) multiply(step.tile, step.encoding, step.encoding, e_squared_);
        if (sweep_.squares) {
            transpose_tile(step.tile, d, layer.out, step.dT, squares_.rows[step.index]);
            const LayerStep<S> squared{step.index, layer, step.tile, h,
                                       e_squared_, d,     step.dT,   step.accumulate};
            add_weight_gradients(squared, sweep_.squares.weight[step.index],
                                 step.accumulate ? Store::kAdd : Store::kWrite);
        }
        if (!sweep_.scores) return;
        for (int p = 0; p < step.tile.panels; ++p)
            add_scores(step, d.panel(p), h.panel(p), layer.skip ? e_squared_.panel(p) : nullptr,
                       step.tile.vectors(p), score + p * L);
    }

    // One segment of points = one sample, cross terms between its points included. The pieces of `range` are
    // segments; bias_gradients receives the sums of d. Null gradients: scores alone.
    void segments(const LayerStep<S>& step, const TileRange& range, const Gradients<S>& gradients,
                  S* bias_gradients, S* score) {
        for (int64_t s = range.first_piece; s < range.end_piece; ++s, score += W) {
            const PointRange points{(int)(sweep_.segments[s] - range.begin),
                                    (int)(sweep_.segments[s + 1] - range.begin)};
            add_segment_weights(step, points, s > 0, gradients, score);
            add_segment_biases(step, points, gradients ? bias_gradients : nullptr, score);
        }
    }

    void store_bias_squares() const {
        if (sweep_.squares) squares_.store(net_, sweep_.squares);
    }

  private:
    static void square(const Tile<S>& tile, const Rows<S>& d, int outputs, const Rows<S>& out) {
        for (int p = 0; p < tile.panels; ++p)
            for (int r = 0; r < outputs; ++r)
                for (int v = 0; v < tile.vectors(p); ++v) {
                    const Vec<S> g = vload(d.panel(p) + r * L + v * W);
                    vstore(out.panel(p) + r * L + v * W, g * g);
                }
    }

    // score [lanes] += what one layer adds for a panel of points.
    void add_scores(const LayerStep<S>& step, const S* d, const S* h, const S* e, int vectors, S* score) {
        const Layer& layer = step.layer;
        Vec<S> sum[L / W] = {};
        const auto add = [&](const Lhs<S>& inverse, int rows, const S* inputs) {
            product(Product<S>{rows, vectors, {layer.out, inverse, d}, product_.values});
            for (int i = 0; i < rows; ++i)
                for (int v = 0; v < vectors; ++v)
                    sum[v] =
                        vfma(vload(product_.values + i * L + v * W), vload(inputs + i * L + v * W), sum[v]);
        };
        add(inverse_[step.index].prev, layer.from_prev, h);
        if (e) add(inverse_[step.index].encoding, layer.from_encoding(), e);
        const S* bias = sweep_.inverse.bias[step.index];
        for (int o = 0; o < layer.out; ++o)
            for (int v = 0; v < vectors; ++v)
                sum[v] = vfma(vload(d + o * L + v * W), vset<S>(bias[o]), sum[v]);
        for (int v = 0; v < vectors; ++v) vstore(score + v * W, vload(score + v * W) + sum[v]);
    }

    void add_segment_weights(const LayerStep<S>& step, PointRange points, bool accumulate,
                             const Gradients<S>& gradients, S* score) const {
        const Layer& layer = step.layer;
        const int l = step.index;
        const SampleGradient<S> sample{step.input.input(),
                                       points,
                                       step.dT,
                                       layer.out,
                                       accumulate,
                                       sweep_.scores ? sweep_.inverse.weight[l] : nullptr,
                                       gradients ? gradients.weight[l] : nullptr,
                                       gradients ? sweep_.squares.weight[l] : nullptr,
                                       score};
        each_gradient_block<S>(layer.from_prev, layer.out, sample);
        if (layer.skip)
            each_gradient_block<S>(layer.from_encoding(), layer.out,
                                   sample.of_encoding(step.encoding.input(), layer.encoding_offset()));
    }

    void add_segment_biases(const LayerStep<S>& step, PointRange points, S* bias_gradients, S* score) const {
        const int l = step.index, outputs = step.layer.out;
        const S* inverse = sweep_.scores ? sweep_.inverse.bias[l] : nullptr;
        S* squares = squares_.rows[l];
        for (int o = 0; o < outputs; o += W) {
            Vec<S> g = {};
            for (int t = points.first; t < points.end; ++t) g = g + vload(step.dT.row(t, o));
            if (inverse) vstore(score, vfma(g * g, vload_part(inverse + o, outputs - o), vload(score)));
            if (!bias_gradients) continue;
            vstore(bias_gradients + o, g + vload(bias_gradients + o));
            vstore(squares + o, vfma(g, g, vload(squares + o)));
        }
    }

    const FisherSweep<S>& sweep_;
    const Net& net_;
    BiasSums<S> squares_;
    Rows<S> d_squared_, h_squared_, e_squared_, product_;
    const LayerWeights<S>* inverse_ = nullptr;
};

// The backward sweep, with Fisher scores and squares where asked for.
//
// Included once per instruction set after bank_kernels.h (no include guard, see
// simd.h).

// d <- d a'(z), for a derivative that no product has taken in.
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

// A layer's share of one sample's score and of the sums, from the sample's own
// gradient [rows, outputs], which is formed in registers, block by block, and
// dropped.
template <class S>
struct OuterSample {
    static constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    const S* H;
    int64_t stride;
    int first, end;
    Transposed<S> D;
    const S* inverse;  // null: no score
    S *grad, *square;  // null: no sums
    int outputs;
    bool accumulate;
    S* score;  // a vector, summed by the caller

    template <int RM, int NV>
    MCLNF_MEMBER void block(int i, int o) const {
        const int64_t at = (int64_t)i * outputs + o;
        const int left = outputs - o;
        Vec<S> total = {};
        Vec<S> g[RM][NV];
        clear_block<S, RM, NV>(g);
        outer_block<S, RM, NV>(H + i * L, stride, first, end, D.row(0, o), g);
        for (int r = 0; r < RM; ++r)
            for (int v = 0; v < NV; ++v) {
                const int64_t p = at + (int64_t)r * outputs + v * W;
                const int count = left - v * W;
                if (inverse) total = vfma(g[r][v] * g[r][v], vload_part(inverse + p, count), total);
                if (!grad) continue;
                const Vec<S> before = accumulate ? vload_part(grad + p, count) : Vec<S>{},
                             squares = accumulate ? vload_part(square + p, count) : Vec<S>{};
                vstore_part(grad + p, g[r][v] + before, count);
                vstore_part(square + p, vfma(g[r][v], g[r][v], squares), count);
            }
        if (inverse) vstore(score, vload(score) + total);
    }
};

// What a Fisher sweep takes and gives beside the gradients.
template <class S>
struct FisherTile {
    const FisherSweep<S>& want;
    const Net& net;
    BiasSums<S> squares;
    Rows<S> dd, hh, ee, q;
    const LayerWeights<S>* inverse = nullptr;

    FisherTile(const FisherSweep<S>& sweep, const Net& n, int panels, int64_t points, Arena<S>& memory)
        : want(sweep), net(n), squares(n, memory) {
        if (!sweep || sweep.segments) return;
        const int wide = round_up(n.max_dim, 16);
        dd = Rows<S>(memory, wide, panels);
        hh = Rows<S>(memory, wide, panels);
        ee = Rows<S>(memory, n.encoded, panels);
        q = Rows<S>(memory, wide, panels);
        if (sweep.inverse) inverse = left_factors(n, sweep.inverse, false, points, memory);
    }

    static Rows<S> as(Rows<S> rows, int count) {
        rows.rows = count;
        return rows;
    }

    // One point = one sample: score = rowsum(((d d) (1/F)^T) * (h h)), one matrix
    // product a layer.
    void points(int l, const Tile<S>& tile, const Rows<S>& prev, const Rows<S>& E, const Rows<S>& d,
                const Transposed<S>& dT, bool accumulate, S* score) {
        constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
        const Layer& layer = net.layers[l];
        const Rows<S> dsq = as(dd, padded<S>(layer.out)), hsq = as(hh, layer.from_prev);
        square(tile, d, layer.out, dsq);
        multiply(tile, prev, prev, hsq);
        if (layer.skip) multiply(tile, E, E, ee);
        if (want.squares) {
            transpose_tile(tile, dsq, layer.out, dT, squares.at[l]);
            add_outer(layer, hsq, ee, dT, tile, want.squares.weight[l], accumulate);
        }
        if (!want.scores) return;
        for (int p = 0; p < tile.panels; ++p) {
            const int nv = tile.vectors(p);
            const S* from = dsq.panel(p);
            Vec<S> sum[L / W] = {};
            const auto dot = [&](const Left<S>& inv, int rows, const S* h) {
                product<S>(rows, layer.out, inv, from, nv, q.at, nullptr, false);
                for (int i = 0; i < rows; ++i)
                    for (int v = 0; v < nv; ++v)
                        sum[v] = vfma(vload(q.at + i * L + v * W), vload(h + i * L + v * W), sum[v]);
            };
            dot(inverse[l].prev, layer.from_prev, hsq.panel(p));
            if (layer.skip) dot(inverse[l].encoding, layer.in - layer.from_prev, ee.panel(p));
            for (int o = 0; o < layer.out; ++o)
                for (int v = 0; v < nv; ++v)
                    sum[v] = vfma(vload(from + o * L + v * W), vset<S>(want.inverse.bias[l][o]), sum[v]);
            for (int v = 0; v < nv; ++v) {
                S* to = score + p * L + v * W;
                vstore(to, vload(to) + sum[v]);
            }
        }
    }

    // One segment of points = one sample, cross terms between its points
    // included. Segments first ... end-1 lie in the tile, which starts at point
    // `at`.
    void segments(int l, const Rows<S>& prev, const Rows<S>& E, const Transposed<S>& dT, int64_t first,
                  int64_t end, int64_t at, const Sums<S>& grads, S* bias_grads, S* score) {
        constexpr int W = Simd<S>::width;
        const Layer& layer = net.layers[l];
        const int64_t below = (int64_t)layer.from_prev * layer.out;
        const S* inv = want.scores ? want.inverse.weight[l] : nullptr;
        for (int64_t s = first; s < end; ++s) {
            const int from = (int)(want.segments[s] - at), to = (int)(want.segments[s + 1] - at);
            S* own = score + (s - first) * W;
            const bool sum = s > 0;
            OuterSample<S> sample{prev.at,
                                  prev.stride(),
                                  from,
                                  to,
                                  dT,
                                  inv,
                                  grads ? grads.weight[l] : nullptr,
                                  grads ? want.squares.weight[l] : nullptr,
                                  layer.out,
                                  sum,
                                  own};
            outer_blocks<S>(layer.from_prev, layer.out, sample);
            if (layer.skip) {
                sample.H = E.at;
                sample.stride = E.stride();
                if (inv) sample.inverse = inv + below;
                if (grads) {
                    sample.grad += below;
                    sample.square += below;
                }
                outer_blocks<S>(layer.in - layer.from_prev, layer.out, sample);
            }
            for (int o = 0; o < layer.out; o += W) {
                Vec<S> g = {};
                for (int t = from; t < to; ++t) g = g + vload(dT.row(t, o));
                if (inv)
                    vstore(own, vfma(g * g, vload_part(want.inverse.bias[l] + o, layer.out - o), vload(own)));
                if (!grads) continue;
                vstore(bias_grads + o, g + vload(bias_grads + o));
                vstore(squares.at[l] + o, vfma(g, g, vload(squares.at[l] + o)));
            }
        }
    }

  private:
    static void square(const Tile<S>& tile, const Rows<S>& d, int outputs, const Rows<S>& out) {
        constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
        for (int p = 0; p < tile.panels; ++p)
            for (int r = 0; r < outputs; ++r)
                for (int v = 0; v < tile.vectors(p); ++v) {
                    const Vec<S> g = vload(d.panel(p) + r * L + v * W);
                    vstore(out.panel(p) + r * L + v * W, g * g);
                }
    }
};

// Pairwise, in an order that depends on the width alone.
template <class S>
static S sum_lanes(S* lanes) {
    for (int half = Simd<S>::width / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

// d = 2 scale weight (y - target), the gradient of the squared error; with the outputs' tangents given, dt =
// its derivative along them. Returns the error over the tile, scale left out.
template <class S>
static double squared_error(const Tile<S>& tile, const Start<S>& start, int64_t at, int outputs,
                            const Rows<S>& y, const Rows<S>& weight, const Rows<S>& d,
                            const Rows<S>* tangent = nullptr, const Rows<S>* dt = nullptr) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    load_points(start.target + at * outputs, tile, d, outputs, false);
    if (start.weight) load_points(start.weight + at, tile, weight, 1, false);
    const Vec<S> twice = vset<S>(2 * start.scale);
    Vec<S> sum = {};
    for (int p = 0; p < tile.panels; ++p) {
        S* w = weight.panel(p);
        if (!start.weight)
            for (int t = 0; t < L; ++t) w[t] = t < tile.in_panel(p) ? S(1) : S(0);
        for (int r = 0; r < outputs; ++r)
            for (int v = 0; v < tile.vectors(p); ++v) {
                const int i = r * L + v * W;
                // A lane without a point has weight 0 and a finite output: that of the last point.
                const Vec<S> share = vload(w + v * W), e = vload(y.panel(p) + i) - vload(d.panel(p) + i);
                sum = vfma(share * e, e, sum);
                vstore(d.panel(p) + i, twice * share * e);
                if (dt) vstore(dt->panel(p) + i, twice * share * vload(tangent->panel(p) + i));
            }
    }
    double total = 0;
    for (int v = 0; v < W; ++v) total += double(sum[v]);
    return total;
}

template <class S>
static void backward(const Net& net, Slices<S> par, const S* x, int64_t n, const Start<S>& start, S* grad_x,
                     Sums<S> grads, const FisherSweep<S>& fisher) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    const int layers = (int)net.layers.size(), last = layers - 1, wide = round_up(net.max_dim, 16);
    Arena<S>& memory = arena<S>();
    // A segment, or a ray, is never cut.
    const int64_t* const cuts = start.pixels ? start.pixels->rays : fisher.segments;
    const int64_t parts = start.pixels ? start.pixels->count : fisher.count;
    int64_t longest = 0;
    for (int64_t s = 0; cuts && s < parts; ++s) longest = std::max(longest, cuts[s + 1] - cuts[s]);
    const int panels = std::max(tile_panels<S>(n), (int)((longest + L - 1) / L));
    const auto *w = left_factors(net, par, true, n, memory), *back = left_factors(net, par, false, n, memory);
    const Rows<S> X(memory, net.in_dim, panels), E(memory, net.encoded, panels);
    const Rows<S> GX(memory, net.in_dim, panels), GE(memory, net.encoded, panels);
    Rows<S>*H = memory.template objects<Rows<S>>(layers), *D = memory.template objects<Rows<S>>(layers);
    bool any_skip = false;
    for (int l = 0; l < layers; ++l) {
        const int kind = l == last ? net.output_activation : net.activation;
        H[l] = Rows<S>(memory, net.layers[l].out, panels);
        if (kind != kRelu && kind != kNone) D[l] = Rows<S>(memory, net.layers[l].out, panels);
        any_skip |= net.layers[l].skip;
    }
    Rows<S> d(memory, wide, panels), g(memory, wide, panels);
    const int64_t group = (int64_t)panels * L * L;
    const Transposed<S> dT{memory.take((size_t)(round_up(net.max_dim, L) / L) * group), group};
    BiasSums<S> bias(net, memory);
    const auto narrow = grads && !fisher.segments ? NarrowSums<S>(net.layers[last], memory) : NarrowSums<S>();
    FisherTile<S> informed(fisher, net, panels, n, memory);
    const Rows<S> weight(memory, 1, panels);
    const auto rays = start.pixels ? RayErrors<S>(panels, memory) : RayErrors<S>();
    const int first = !start.kept ? 0 : net.output_activation == kNone && start.grad_y ? layers : last;
    std::vector<S> score;
    double error = 0;

    int64_t segment = 0;
    // Rays of no point at all have an error too.
    for (int64_t at = 0, next; at < n || segment < (start.pixels ? parts : 0); at = next) {
        int64_t segments_end = segment;
        if (cuts) {
            while (segments_end < parts && cuts[segments_end + 1] - at <= panels * L) ++segments_end;
            next = cuts[segments_end];
        } else {
            next = std::min<int64_t>(at + panels * L, n);
        }
        if (fisher) score.assign(fisher.segments ? (segments_end - segment) * W : (size_t)panels * L, S(0));
        const Tile<S> tile((int)(next - at));
        const bool accumulate = at > 0;
        load_points(x + at * net.in_dim, tile, X, net.in_dim, true);
        if (start.kept) place_kept(net, tile, at, const_cast<S*>(start.kept), H);
        Slices<S> own = par;
        if (next < n) own.next = accumulate || !grads || grads.stream ? nullptr : grads.weight;
        tile_forward<S>(net, own, w, tile, X, E, H, D, first);
        d.rows = padded<S>(net.out_dim);
        if (start.grad_y)
            load_points(start.grad_y + at * net.out_dim, tile, d, net.out_dim, false);
        else if (start.pixels)
            error += rays.add(tile, *start.pixels, segment, segments_end, at, start.scale, H[last], d);
        else
            error += squared_error(tile, start, at, net.out_dim, H[last], weight, d);
        if (grad_x && any_skip)
            for (int p = 0; p < tile.panels; ++p) std::memset(GE.panel(p), 0, sizeof(S) * GE.stride());
        times_derivative(tile, net.output_activation, H[last], D[last], d);
        for (int l = last; l >= 0 && (grads || grad_x || fisher); --l) {
            const Layer& layer = net.layers[l];
            const Rows<S>& prev = l > 0 ? H[l - 1] : E;
            const bool few = l == last && narrow;
            if (few)
                narrow.add(tile, prev, d, true);
            else if (grads || fisher.segments)
                transpose_tile(tile, d, layer.out, dT, fisher.segments || !grads ? nullptr : bias.at[l]);
            if (fisher.segments)
                informed.segments(l, prev, E, dT, segment, segments_end, at, grads, bias.at[l], score.data());
            else if (grads && !few)
                add_outer(layer, prev, E, dT, tile, grads.weight[l], accumulate, grads.stream && next == n);
            if (fisher && !fisher.segments)
                informed.points(l, tile, prev, E, d, dT, accumulate, score.data());
            if (l == 0 && !grad_x) break;
            const int kind = net.activation;
            const int after = l == 0 || kind == kNone ? kKeep : kind == kRelu ? kMasked : kTimes;
            g.rows = l > 0 ? padded<S>(layer.from_prev) : 0;
            for (int p = 0; p < tile.panels; ++p) {
                const S* with = after == kKeep     ? nullptr
                                : after == kMasked ? H[l - 1].panel(p)
                                                   : D[l - 1].panel(p);
                layer_backward<S>(layer, back[l], d.panel(p), tile.vectors(p),
                                  l > 0 ? g.panel(p) : GE.panel(p), grad_x && l > 0 ? GE.panel(p) : nullptr,
                                  l == 0 && any_skip, after, with);
            }
            std::swap(d, g);
        }
        if (grad_x) {
            for (int p = 0; p < tile.panels; ++p)
                encode_backward<S>(net, X.panel(p), E.panel(p), GE.panel(p), nullptr, nullptr, GX.panel(p),
                                   tile.vectors(p));
            store_points(GX, tile, net.in_dim, grad_x + at * net.in_dim);
        }
        if (fisher.scores && fisher.segments)
            for (int64_t s = segment; s < segments_end; ++s)
                fisher.scores[s] = sum_lanes<S>(&score[(s - segment) * W]);
        else if (fisher.scores)
            std::copy(score.begin(), score.begin() + tile.points, fisher.scores + at);
        segment = segments_end;
    }
    if (start.error) *start.error = error * double(start.scale);
    if (grads) bias.store(net, grads);
    if (narrow) narrow.store(grads.weight[last], grads.bias[last]);
    if (fisher.squares) informed.squares.store(net, fisher.squares);
}

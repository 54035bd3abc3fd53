// The derivative of the backward sweep along a direction, by Pearlmutter's
// R-operator.
//
// Included once per instruction set after bank_backward.h (no include guard,
// see simd.h).

// d <- d a'(z) and dt <- dt a'(z) + d (a''(z) zt): the gradients of a layer's sums and their tangents from
// those of its outputs. C holds a''(z) zt.
template <class S>
static void times_derivatives(const Tile<S>& tile, int kind, const Rows<S>& H, const Rows<S>& D,
                              const Rows<S>& C, const Rows<S>& d, const Rows<S>& dt) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    if (kind == kNone || kind == kRelu) {
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
static void second(const Net& net, Slices<S> par, const S* x, int64_t n, const Start<S>& start,
                   const S* tangent_x, Slices<S> tangent, S* grad_x, Sums<S> grads, S* grad_grad_y) {
    constexpr int L = Panel<S>::lanes;
    const int layers = (int)net.layers.size(), last = layers - 1, wide = round_up(net.max_dim, 16);
    Arena<S>& memory = arena<S>();
    const int panels =
        1;  // two are no faster: there is so much of each that the weights do not stay beside them
    const auto *w = left_factors(net, par, true, n, memory),
               *wt = left_factors(net, tangent, true, n, memory);
    const auto *back = left_factors(net, par, false, n, memory),
               *backt = left_factors(net, tangent, false, n, memory);
    const auto rows = [&](int count, bool wanted) {
        return wanted ? Rows<S>(memory, count, panels) : Rows<S>();
    };
    const Rows<S> X = rows(net.in_dim, true), Xt = rows(net.in_dim, tangent_x), GX = rows(net.in_dim, grad_x);
    const Rows<S> E = rows(net.encoded, true), Et = rows(net.encoded, tangent_x),
                  GE = rows(net.encoded, grad_x), GEt = rows(net.encoded, grad_x);
    // C: a''(z) zt, by which d reaches the tangent of d. Relu has its derivative in H, and a second one of 0.
    const auto layerwise = [&] { return memory.template objects<Rows<S>>(layers); };
    Rows<S>*H = layerwise(), *Ht = layerwise(), *D = layerwise(), *C = layerwise();
    for (int l = 0; l < layers; ++l) {
        const int kind = l == last ? net.output_activation : net.activation, out = net.layers[l].out;
        H[l] = Rows<S>(memory, out, panels);
        Ht[l] = Rows<S>(memory, out, panels);
        if (kind == kRelu || kind == kNone) continue;
        D[l] = Rows<S>(memory, out, panels);
        C[l] = Rows<S>(memory, out, panels);
    }
    Rows<S> d(memory, wide, panels), dt(memory, wide, panels), g(memory, wide, panels),
        gt(memory, wide, panels);
    const Rows<S> weight(memory, 1, panels);
    const int64_t group = (int64_t)panels * L * L;
    const auto transposed = [&] {
        return Transposed<S>{memory.take((size_t)(round_up(net.max_dim, L) / L) * group), group};
    };
    const Transposed<S> dT = transposed(), dtT = transposed();
    BiasSums<S> bias(net, memory);
    const auto narrow = grads ? NarrowSums<S>(net.layers[last], memory) : NarrowSums<S>();

    for (int64_t at = 0; at < n; at += panels * L) {
        const Tile<S> tile((int)std::min<int64_t>(panels * L, n - at));
        load_points(x + at * net.in_dim, tile, X, net.in_dim, true);
        if (tangent_x) load_points(tangent_x + at * net.in_dim, tile, Xt, net.in_dim, false);
        for (int p = 0; p < tile.panels; ++p)
            encode<S>(net, X.panel(p), E.panel(p), tangent_x ? Xt.panel(p) : nullptr,
                      tangent_x ? Et.panel(p) : nullptr, tile.vectors(p));
        for (int l = 0; l < layers; ++l) {
            const Layer& layer = net.layers[l];
            const int kind = l == last ? net.output_activation : net.activation;
            const int below = layer.in - layer.from_prev;
            // Of few points a module, its memory's way takes as long as a product: asked for in the one
            // before.
            const auto asked = [&](const S* from) {
                const int64_t steps =
                    (int64_t)(layer.out + kRows - 1) / kRows * layer.from_prev * tile.panels;
                return from ? Ahead(from, (int64_t)layer.in * layer.out, steps) : Ahead(w[l].prev.at, 0, 1);
            };
            const bool ends = at + panels * L >= n;
            Ahead own = asked(ends && par.next ? par.next[l] : at == 0 && grads ? grads.weight[l] : nullptr);
            Ahead along = asked(ends && tangent.next ? tangent.next[l] : nullptr);
            for (int p = 0; p < tile.panels; ++p) {
                const int nv = tile.vectors(p);
                const S *prev = l > 0 ? H[l - 1].panel(p) : E.panel(p), *prevt = l > 0 ? Ht[l - 1].panel(p)
                                                                                 : tangent_x ? Et.panel(p)
                                                                                             : nullptr;
                S *z = H[l].panel(p), *zt = Ht[l].panel(p);
                const int after = kind == kRelu ? kMasked : kKeep;
                layer_forward<S>(layer, w[l], par.bias[l], prev, E.panel(p), nv, z, false,
                                 kind == kRelu ? kRelu0 : kKeep, &own);
                // zt = Wt^T h + bt + W^T ht; whatever is added last takes relu's derivative in.
                const Beside<S> too = prevt ? Beside<S>{layer.from_prev, w[l].prev, prevt} : Beside<S>{};
                product<S>(layer.out, layer.from_prev, wt[l].prev, prev, nv, zt, tangent.bias[l], false,
                           layer.skip ? kKeep : after, z, &along, L, too);
                if (layer.skip)
                    product<S>(layer.out, below, wt[l].encoding, E.panel(p), nv, zt, nullptr, true, after, z,
                               nullptr, L,
                               tangent_x ? Beside<S>{below, w[l].encoding, Et.panel(p)} : Beside<S>{});
                if (kind != kRelu && kind != kNone)
                    activate<S>(kind, net.w0, layer.out, nv, z, D[l].panel(p), zt, C[l].panel(p));
            }
        }
        if (grad_grad_y) store_points(Ht[last], tile, net.out_dim, grad_grad_y + at * net.out_dim);

        d.rows = dt.rows = padded<S>(net.out_dim);
        if (start.grad_y) {
            load_points(start.grad_y + at * net.out_dim, tile, d, net.out_dim, false);
            for (int p = 0; p < tile.panels; ++p) std::memset(dt.panel(p), 0, sizeof(S) * dt.stride());
        } else {
            squared_error(tile, start, at, net.out_dim, H[last], weight, d, &Ht[last], &dt);
        }
        for (int p = 0; grad_x && p < tile.panels; ++p) {
            std::memset(GE.panel(p), 0, sizeof(S) * GE.stride());
            std::memset(GEt.panel(p), 0, sizeof(S) * GEt.stride());
        }
        times_derivatives(tile, net.output_activation, H[last], D[last], C[last], d, dt);
        for (int l = last; l >= 0; --l) {
            const Layer& layer = net.layers[l];
            const Rows<S>&prev = l > 0 ? H[l - 1] : E, &prevt = l > 0 ? Ht[l - 1] : Et;
            // dt h^T + d ht^T
            if (grads && l == last && narrow) {
                narrow.add(tile, prev, dt, true);
                if (prevt) narrow.add(tile, prevt, d, false);
            } else if (grads) {
                transpose_tile(tile, dt, layer.out, dtT, bias.at[l]);
                if (prevt) transpose_tile<S>(tile, d, layer.out, dT, nullptr);
                const auto outer = [&](int rows, const Rows<S>& h, const S* ht, S* to) {
                    outer_blocks<S>(rows, layer.out,
                                    OuterSum<S>{h.at, h.stride(), 0, tile.points, dtT, to, layer.out, at > 0,
                                                false, ht, dT});
                };
                outer(layer.from_prev, prev, prevt.at, grads.weight[l]);
                if (layer.skip)
                    outer(layer.in - layer.from_prev, E, Et.at,
                          grads.weight[l] + (int64_t)layer.from_prev * layer.out);
            }
            if (l == 0 && !grad_x) break;
            // g = (W d) a', gt = (W dt + Wt d) a' + (W d) (a'' zt)
            const int kind = net.activation;
            const bool curved = l > 0 && kind != kRelu && kind != kNone;
            const int after = l > 0 && kind == kRelu ? kMasked : kKeep;
            g.rows = gt.rows = l > 0 ? padded<S>(layer.from_prev) : 0;
            for (int p = 0; p < tile.panels; ++p) {
                const int nv = tile.vectors(p), below = layer.in - layer.from_prev;
                const S *mask = after == kMasked ? H[l - 1].panel(p) : nullptr, *from = d.panel(p);
                S *G = l > 0 ? g.panel(p) : GE.panel(p), *Gt = l > 0 ? gt.panel(p) : GEt.panel(p);
                const Beside<S> too{layer.out, backt[l].prev, from};
                if (curved) {
                    const S *a1 = D[l - 1].panel(p), *a2 = C[l - 1].panel(p);
                    product<S>(layer.from_prev, layer.out, back[l].prev, from, nv, G, nullptr, false, kSplit,
                               a1, nullptr, L, Beside<S>{0, {}, nullptr, a2, Gt});
                    product<S>(layer.from_prev, layer.out, back[l].prev, dt.panel(p), nv, Gt, nullptr, false,
                               kPlus, a1, nullptr, L, too);
                } else {
                    product<S>(layer.from_prev, layer.out, back[l].prev, from, nv, G, nullptr, l == 0, after,
                               mask);
                    product<S>(layer.from_prev, layer.out, back[l].prev, dt.panel(p), nv, Gt, nullptr, l == 0,
                               after, mask, nullptr, L, too);
                }
                if (!layer.skip || !grad_x) continue;
                product<S>(below, layer.out, back[l].encoding, from, nv, GE.panel(p), nullptr, true);
                product<S>(below, layer.out, back[l].encoding, dt.panel(p), nv, GEt.panel(p), nullptr, true,
                           kKeep, nullptr, nullptr, L, Beside<S>{layer.out, backt[l].encoding, from});
            }
            std::swap(d, g);
            std::swap(dt, gt);
        }
        if (grad_x) {
            for (int p = 0; p < tile.panels; ++p)
                encode_backward<S>(net, X.panel(p), E.panel(p), GE.panel(p),
                                   tangent_x ? Xt.panel(p) : nullptr, GEt.panel(p), GX.panel(p),
                                   tile.vectors(p));
            store_points(GX, tile, net.in_dim, grad_x + at * net.in_dim);
        }
    }
    if (grads) bias.store(net, grads);
    if (narrow) narrow.store(grads.weight[last], grads.bias[last]);
}

template <class S>
static constexpr BankTable<S> make_table(const char* name) {
    return {name, Panel<S>::lanes, &forward<S>, &backward<S>, &second<S>};
}

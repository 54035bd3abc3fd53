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
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
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
    const Transposed<S> dT{memory.take((size_t)(round_up(net.max_dim, L) / L) * group), group};
    BiasSums<S> bias(net, memory);

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
            for (int p = 0; p < tile.panels; ++p) {
                const int nv = tile.vectors(p);
                const S *prev = l > 0 ? H[l - 1].panel(p) : E.panel(p), *prevt = l > 0 ? Ht[l - 1].panel(p)
                                                                                 : tangent_x ? Et.panel(p)
                                                                                             : nullptr;
                S *z = H[l].panel(p), *zt = Ht[l].panel(p);
                const int after = kind == kRelu ? kMasked : kKeep;
                const bool skipt = layer.skip && tangent_x;
                layer_forward<S>(layer, w[l], par.bias[l], prev, E.panel(p), nv, z, false,
                                 kind == kRelu ? kRelu0 : kKeep);
                // zt = Wt^T h + bt + W^T ht; whatever is added last takes relu's derivative in.
                product<S>(layer.out, layer.from_prev, wt[l].prev, prev, nv, zt, tangent.bias[l], false,
                           layer.skip || prevt ? kKeep : after, z);
                if (layer.skip)
                    product<S>(layer.out, below, wt[l].encoding, E.panel(p), nv, zt, nullptr, true,
                               prevt ? kKeep : after, z);
                if (prevt)
                    product<S>(layer.out, layer.from_prev, w[l].prev, prevt, nv, zt, nullptr, true,
                               skipt ? kKeep : after, z);
                if (skipt)
                    product<S>(layer.out, below, w[l].encoding, Et.panel(p), nv, zt, nullptr, true, after, z);
                if (kind == kRelu || kind == kNone) continue;
                S *a1 = D[l].panel(p), *a2 = C[l].panel(p);
                activate<S>(kind, net.w0, layer.out, nv, z, a1, a2);
                for (int r = 0; r < layer.out; ++r)
                    for (int v = 0; v < nv; ++v) {
                        const int i = r * L + v * W;
                        const Vec<S> t = vload(zt + i);
                        vstore(a2 + i, vload(a2 + i) * t);
                        vstore(zt + i, vload(a1 + i) * t);
                    }
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
            if (grads) {
                transpose_tile(tile, dt, layer.out, dT, bias.at[l]);
                add_outer(layer, prev, E, dT, tile, grads.weight[l], at > 0);
                if (l > 0 || tangent_x) {
                    transpose_tile<S>(tile, d, layer.out, dT, nullptr);
                    outer_blocks<S>(layer.from_prev, layer.out,
                                    OuterSum<S>{prevt.at, prevt.stride(), 0, tile.points, dT, grads.weight[l],
                                                layer.out, true, false});
                }
                if (layer.skip && tangent_x)
                    outer_blocks<S>(layer.in - layer.from_prev, layer.out,
                                    OuterSum<S>{Et.at, Et.stride(), 0, tile.points, dT,
                                                grads.weight[l] + (int64_t)layer.from_prev * layer.out,
                                                layer.out, true, false});
            }
            if (l == 0 && !grad_x) break;
            const int kind = net.activation, after = l > 0 && kind == kRelu ? kMasked : kKeep;
            g.rows = gt.rows = l > 0 ? padded<S>(layer.from_prev) : 0;
            for (int p = 0; p < tile.panels; ++p) {
                const int nv = tile.vectors(p);
                const S* mask = after == kMasked ? H[l - 1].panel(p) : nullptr;
                S *G = l > 0 ? g.panel(p) : GE.panel(p), *Gt = l > 0 ? gt.panel(p) : GEt.panel(p);
                S *ge = grad_x ? GE.panel(p) : nullptr, *get = grad_x ? GEt.panel(p) : nullptr;
                layer_backward<S>(layer, back[l], d.panel(p), nv, G, ge, l == 0, after, mask);
                layer_backward<S>(layer, back[l], dt.panel(p), nv, Gt, get, l == 0);
                layer_backward<S>(layer, backt[l], d.panel(p), nv, Gt, get, true, after, mask);
            }
            std::swap(d, g);
            std::swap(dt, gt);
            if (l > 0 && after == kKeep) times_derivatives(tile, kind, H[l - 1], D[l - 1], C[l - 1], d, dt);
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
}

template <class S>
static constexpr BankTable<S> make_table(const char* name) {
    return {name, Panel<S>::lanes, &forward<S>, &backward<S>, &second<S>};
}

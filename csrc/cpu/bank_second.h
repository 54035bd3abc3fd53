// The derivative of the backward sweep along a direction, by Pearlmutter's
// R-operator.
//
// Included once per instruction set after bank_backward.h (no include guard,
// see simd.h).

template <class S>
static void second(const Net& net, Slices<S> par, const S* x, int64_t n, const S* grad_y, const S* tangent_x,
                   Slices<S> tangent, S* grad_x, Sums<S> grads, S* grad_grad_y) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    const int layers = (int)net.layers.size(), last = layers - 1, wide = round_up(net.max_dim, 16);
    Arena<S>& memory = arena<S>();
    const int panels = tile_panels<S>(n);
    const auto w = left_factors(net, par, true, n, memory), wt = left_factors(net, tangent, true, n, memory);
    const auto back = left_factors(net, par, false, n, memory),
               backt = left_factors(net, tangent, false, n, memory);
    const Rows<S> X(memory, net.in_dim, panels), Xt(memory, net.in_dim, panels),
        GX(memory, net.in_dim, panels);
    const Rows<S> E(memory, net.encoded, panels), Et(memory, net.encoded, panels),
        GE(memory, net.encoded, panels), GEt(memory, net.encoded, panels);
    std::vector<Rows<S>> H, Ht, D,
        C;  // C: a''(z) zt, by which d reaches the tangent of d
    for (const Layer& layer : net.layers)
        for (auto* rows : {&H, &Ht, &D, &C}) rows->emplace_back(memory, layer.out, panels);
    Rows<S> d(memory, wide, panels), dt(memory, wide, panels), g(memory, wide, panels),
        gt(memory, wide, panels);
    const int64_t group = (int64_t)panels * L * L;
    const Transposed<S> dT{memory.take((size_t)(round_up(net.max_dim, L) / L) * group), group};
    BiasSums<S> bias(net, memory);

    for (int64_t at = 0; at < n; at += panels * L) {
        const Tile<S> tile((int)std::min<int64_t>(panels * L, n - at));
        load_points(x + at * net.in_dim, tile, X, net.in_dim, true);
        load_points(tangent_x + at * net.in_dim, tile, Xt, net.in_dim, false);
        for (int p = 0; p < tile.panels; ++p)
            encode<S>(net, X.panel(p), E.panel(p), Xt.panel(p), Et.panel(p), tile.vectors(p));
        for (int l = 0; l < layers; ++l) {
            const Layer& layer = net.layers[l];
            const Rows<S>&prev = l > 0 ? H[l - 1] : E, &prevt = l > 0 ? Ht[l - 1] : Et;
            const int kind = l == last ? net.output_activation : net.activation;
            for (int p = 0; p < tile.panels; ++p) {
                const int nv = tile.vectors(p);
                S *z = H[l].panel(p), *zt = Ht[l].panel(p), *a1 = D[l].panel(p), *a2 = C[l].panel(p);
                layer_forward<S>(layer, w[l], par.bias[l], prev.panel(p), E.panel(p), nv, z, false);
                layer_forward<S>(layer, w[l], tangent.bias[l], prevt.panel(p), Et.panel(p), nv, zt, false);
                layer_forward<S>(layer, wt[l], nullptr, prev.panel(p), E.panel(p), nv, zt, true);
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
        store_points(Ht[last], tile, net.out_dim, grad_grad_y + at * net.out_dim);

        g.rows = gt.rows = padded<S>(net.out_dim);
        load_points(grad_y + at * net.out_dim, tile, g, net.out_dim, false);
        for (int p = 0; p < tile.panels; ++p) {
            std::memset(gt.panel(p), 0, sizeof(S) * gt.stride());
            std::memset(GE.panel(p), 0, sizeof(S) * GE.stride());
            std::memset(GEt.panel(p), 0, sizeof(S) * GEt.stride());
        }
        for (int l = last; l >= 0; --l) {
            const Layer& layer = net.layers[l];
            d.rows = dt.rows = padded<S>(layer.out);
            for (int p = 0; p < tile.panels; ++p)
                for (int r = 0; r < layer.out; ++r)
                    for (int v = 0; v < tile.vectors(p); ++v) {
                        const int i = r * L + v * W;
                        const Vec<S> gv = vload(g.panel(p) + i), a = vload(D[l].panel(p) + i);
                        vstore(d.panel(p) + i, gv * a);
                        vstore(dt.panel(p) + i,
                               vfma(gv, vload(C[l].panel(p) + i), vload(gt.panel(p) + i) * a));
                    }
            if (grads) {
                const Rows<S>&prev = l > 0 ? H[l - 1] : E, &prevt = l > 0 ? Ht[l - 1] : Et;
                transpose_tile(tile, dt, layer.out, dT, bias.at[l]);
                add_outer(layer, prev, E, dT, tile, grads.weight[l], at > 0);
                transpose_tile<S>(tile, d, layer.out, dT, nullptr);
                add_outer(layer, prevt, Et, dT, tile, grads.weight[l], true);
            }
            g.rows = gt.rows = l > 0 ? padded<S>(layer.from_prev) : 0;
            for (int p = 0; p < tile.panels; ++p) {
                const int nv = tile.vectors(p);
                S *G = l > 0 ? g.panel(p) : GE.panel(p), *Gt = l > 0 ? gt.panel(p) : GEt.panel(p);
                S *ge = GE.panel(p), *get = GEt.panel(p);
                layer_backward<S>(layer, back[l], d.panel(p), nv, G, ge, l == 0);
                layer_backward<S>(layer, back[l], dt.panel(p), nv, Gt, get, l == 0);
                layer_backward<S>(layer, backt[l], d.panel(p), nv, Gt, get, true);
            }
        }
        if (grad_x) {
            for (int p = 0; p < tile.panels; ++p)
                encode_backward<S>(net, X.panel(p), E.panel(p), GE.panel(p), Xt.panel(p), GEt.panel(p),
                                   GX.panel(p), tile.vectors(p));
            store_points(GX, tile, net.in_dim, grad_x + at * net.in_dim);
        }
    }
    if (grads) bias.store(net, grads);
}

template <class S>
static constexpr BankTable<S> make_table(const char* name) {
    return {name, &forward<S>, &backward<S>, &second<S>};
}

// Forward and backward sweeps of one module over a run of points in bf16.
//
// Included once per instruction set after bf16_outer.h and bank_kernels.h (no
// include guard, see simd.h). What a layer reads is rounded to bf16: its
// input, its parameters, and in backward the gradient of its outputs, as in
// PyTorch's bf16 autograd. Everything else is fp32: sums, biases, activations
// and their derivatives, encodings, and the gradients of parameters over a run.

// Points a tile: as many bytes as an fp32 tile has.
static constexpr int kBf16TilePoints = 256;

static int bf16_panels(int64_t n) {
    constexpr int L = Panel<float>::lanes;
    return (int)std::min<int64_t>(kBf16TilePoints / L, (n + L - 1) / L);
}

// The weights of one layer as left factors.
struct Bf16Layer {
    const uint32_t* forward;          // W^T
    const uint32_t *prev, *encoding;  // rows of W: of the layer before, and of the encoding in a skip layer
    const float* bias;
};

static std::vector<Bf16Layer> bf16_layers(const Net& net, Slices<Bf16> par, bool backward,
                                          Arena<uint32_t>& pairs, Arena<float>& memory) {
    std::vector<Bf16Layer> found;
    for (size_t l = 0; l < net.layers.size(); ++l) {
        const Layer& layer = net.layers[l];
        const Bf16* w = par.weight[l];
        const int below = layer.in - layer.from_prev, prev = pairs_of(layer.from_prev),
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
        found.push_back({forward, rows, encoding, bias});
    }
    return found;
}

// A layer over a panel: its values rounded to H or, without H, in fp32 to Z,
// which is overwritten in any case; D receives a'(z) where given.
static void bf16_layer(const Net& net, int l, const Bf16Layer& w, const uint32_t* prev, const uint32_t* E,
                       int nv, float* Z, uint32_t* H, float* D) {
    const Layer& layer = net.layers[l];
    const bool last = l + 1 == (int)net.layers.size();
    const int kind = last ? net.output_activation : net.activation;
    const PairPanel first{prev, pairs_of(layer.from_prev)}, then{E, pairs_of(layer.in - layer.from_prev)};
    DotResult to;
    if (H && !D && (kind == kRelu || kind == kNone)) {
        to.pairs = H;
        to.after = kind == kRelu ? kRelu0 : kKeep;
        return dot_product(layer.out, w.forward, first, then, nv, w.bias, to);
    }
    to.sums = Z;
    dot_product(layer.out, w.forward, first, then, nv, w.bias, to);
    if (kind != kNone || D) activate<float>(kind, net.w0, layer.out, nv, Z, D);
    if (H) pair_rows(layer.out, nv, Z, H);
}

static void bf16_forward(const Net& net, Slices<Bf16> par, const Bf16* x, int64_t n, Bf16* y, Bf16*) {
    constexpr int L = Panel<float>::lanes;
    Arena<float>& memory = arena<float>();
    Arena<uint32_t>& pairs = arena<uint32_t>();
    const int panels = bf16_panels(n), last = (int)net.layers.size() - 1;
    const auto w = bf16_layers(net, par, false, pairs, memory);
    float *X = memory.take((size_t)net.in_dim * L), *E = memory.take((size_t)net.encoded * L),
          *Z = memory.take((size_t)net.max_dim * L);
    const PairRows encoded(pairs, net.encoded, panels);
    PairRows H(pairs, net.max_dim, panels), next(pairs, net.max_dim, panels);
    for (int64_t at = 0; at < n; at += panels * L) {
        const Tile<float> tile((int)std::min<int64_t>(panels * L, n - at));
        for (int p = 0; p < tile.panels; ++p) {
            load_bf16(x + (at + p * L) * net.in_dim, tile.in_panel(p), X, net.in_dim, true);
            encode<float>(net, X, E, nullptr, nullptr, tile.vectors(p));
            pair_rows(net.encoded, tile.vectors(p), E, encoded.panel(p));
        }
        for (int l = 0; l <= last; ++l) {
            const PairRows& prev = l > 0 ? H : encoded;
            for (int p = 0; p < tile.panels; ++p) {
                bf16_layer(net, l, w[l], prev.panel(p), encoded.panel(p), tile.vectors(p), Z,
                           l < last ? next.panel(p) : nullptr, nullptr);
                if (l == last) store_bf16(Z, tile.in_panel(p), net.out_dim, y + (at + p * L) * net.out_dim);
            }
            std::swap(H, next);
        }
    }
}

// The gradients of <grad_y, f> (BankTable). No Fisher sweep: those are fp32.
static void bf16_backward(const Net& net, Slices<Bf16> par, const Bf16* x, int64_t n,
                          const Start<Bf16>& start, Bf16* grad_x, Sums<float> grads,
                          const FisherSweep<float>&) {
    constexpr int L = Panel<float>::lanes;
    const int layers = (int)net.layers.size(), last = layers - 1, panels = bf16_panels(n);
    Arena<float>& memory = arena<float>();
    Arena<uint32_t>& pairs = arena<uint32_t>();
    const auto w = bf16_layers(net, par, true, pairs, memory);
    const Rows<float> X(memory, net.in_dim, panels), E(memory, net.encoded, panels),
        GE(memory, net.encoded, panels), GX(memory, net.in_dim, 1);
    float *Z = memory.take((size_t)net.max_dim * L), *slope = memory.take((size_t)net.out_dim * L);
    const PairRows encoded(pairs, net.encoded, panels);
    std::vector<PairRows> H(layers);
    std::vector<Rows<float>> D(layers);
    const bool curved = net.activation != kRelu && net.activation != kNone;
    bool any_skip = false;
    for (int l = 0; l < layers; ++l) {
        any_skip |= net.layers[l].skip;
        if (l == last) continue;
        H[l] = PairRows(pairs, net.layers[l].out, panels);
        if (curved) D[l] = Rows<float>(memory, net.layers[l].out, panels);
    }
    // Gradients of a layer's outputs; up to whole blocks of the transposition.
    const int wide = round_up(net.max_dim, 16);
    PairRows d(pairs, wide, panels), g(pairs, wide, panels);
    const int64_t group = (int64_t)panels * L * L / 2;
    const PairsTransposed dT{pairs.take((size_t)(round_up(wide, L) / L) * group), group};
    const PointPairs rows{pairs.take((size_t)wide * panels * L / 2), panels * L / 2};
    BiasSums<float> bias(net, memory);

    for (int64_t at = 0; at < n; at += panels * L) {
        const Tile<float> tile((int)std::min<int64_t>(panels * L, n - at));
        const int count = pairs_of(tile.points);  // of points
        for (int p = 0; p < tile.panels; ++p) {
            load_bf16(x + (at + p * L) * net.in_dim, tile.in_panel(p), X.panel(p), net.in_dim, true);
            encode<float>(net, X.panel(p), E.panel(p), nullptr, nullptr, tile.vectors(p));
            pair_rows(net.encoded, tile.vectors(p), E.panel(p), encoded.panel(p));
        }
        for (int l = 0; l < last; ++l)
            for (int p = 0; p < tile.panels; ++p)
                bf16_layer(net, l, w[l], (l > 0 ? H[l - 1] : encoded).panel(p), encoded.panel(p),
                           tile.vectors(p), Z, H[l].panel(p), curved ? D[l].panel(p) : nullptr);
        for (int p = 0; p < tile.panels; ++p) {
            const int nv = tile.vectors(p), size = net.out_dim * L;
            if (net.output_activation != kNone)
                bf16_layer(net, last, w[last], (last > 0 ? H[last - 1] : encoded).panel(p), encoded.panel(p),
                           nv, Z, nullptr, slope);
            load_bf16(start.grad_y + (at + p * L) * net.out_dim, tile.in_panel(p), Z, net.out_dim, false);
            if (net.output_activation != kNone)
                for (int i = 0; i < size; ++i) Z[i] *= slope[i];
            pair_rows(net.out_dim, nv, Z, d.panel(p));
            if (grad_x && any_skip) std::memset(GE.panel(p), 0, sizeof(float) * GE.stride());
        }
        for (int l = last; l >= 0; --l) {
            const Layer& layer = net.layers[l];
            const int below = layer.in - layer.from_prev, outputs = pairs_of(layer.out);
            if (grads) {
                transpose_tile_pairs(tile, d, layer.out, dT);
                add_bias(layer.out, count, dT, bias.at[l]);
                DotOuter sum{rows, count, dT, grads.weight[l], layer.out, at > 0};
                part_rows(tile, l > 0 ? H[l - 1] : encoded, rows);
                outer_blocks<float>(layer.from_prev, layer.out, sum);
                if (layer.skip) {
                    part_rows(tile, encoded, rows);
                    sum.grad += (int64_t)layer.from_prev * layer.out;
                    outer_blocks<float>(below, layer.out, sum);
                }
            }
            if (l == 0 && !grad_x) break;
            for (int p = 0; p < tile.panels; ++p) {
                const PairPanel from{d.panel(p), outputs};
                const int nv = tile.vectors(p);
                DotResult to, skipped;
                skipped.sums = grad_x ? GE.panel(p) : nullptr;
                skipped.accumulate = any_skip;
                if (l > 0) {
                    to.pairs = g.panel(p);
                    to.after = curved ? kTimes : net.activation == kRelu ? kMasked : kKeep;
                    to.mask = H[l - 1].panel(p);
                    to.with = curved ? D[l - 1].panel(p) : nullptr;
                }
                dot_product(layer.from_prev, w[l].prev, from, {}, nv, nullptr, l > 0 ? to : skipped);
                if (layer.skip && grad_x) dot_product(below, w[l].encoding, from, {}, nv, nullptr, skipped);
            }
            std::swap(d, g);
        }
        if (grad_x)
            for (int p = 0; p < tile.panels; ++p) {
                encode_backward<float>(net, X.panel(p), E.panel(p), GE.panel(p), nullptr, nullptr, GX.at,
                                       tile.vectors(p));
                store_bf16(GX.at, tile.in_panel(p), net.in_dim, grad_x + (at + p * L) * net.in_dim);
            }
    }
    if (grads) bias.store(net, grads);
}

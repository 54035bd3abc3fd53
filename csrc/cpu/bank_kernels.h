// Forward, backward and second-order sweeps of one module over a run of points, a tile of points at a time.
//
// Included once per instruction set after gemm_tile.h and bank_tile.h (no include guard, see simd.h). All of
// a tile's activations stay in the cache from the first layer to the last, and backward computes them again
// instead of keeping them.

// Z [out, T] = W^T H + b, H being the layer before and, for a skip layer, the encoding as well.
template <class S>
static void layer_forward(const Layer& layer, const S* weight, const S* bias, const S* prev, const S* E,
                          int encoded, int nv, S* Z, bool accumulate) {
    constexpr int T = Tile<S>::points;
    gemm<S>(layer.out, layer.from_prev, weight, 1, layer.out, prev, T, nv, Z, T, bias, accumulate);
    if (layer.skip)
        gemm<S>(layer.out, encoded, weight + (int64_t)layer.from_prev * layer.out, 1, layer.out, E, T, nv, Z,
                T, nullptr, true);
}

// G [from_prev, T] = W d (added to where `accumulate`); the encoding's share of a skip layer is added to GE.
template <class S>
static void layer_backward(const Layer& layer, const S* weight, const S* d, int encoded, int nv, S* G, S* GE,
                           bool accumulate) {
    constexpr int T = Tile<S>::points;
    if (G) gemm<S>(layer.from_prev, layer.out, weight, layer.out, 1, d, T, nv, G, T, nullptr, accumulate);
    if (layer.skip && GE)
        gemm<S>(encoded, layer.out, weight + (int64_t)layer.from_prev * layer.out, layer.out, 1, d, T, nv, GE,
                T, nullptr, true);
}

// Weight gradients, summed over tiles in rows padded to whole vectors, and added to the caller's at the end.
template <class S>
struct Accumulator {
    Sums<S> target;
    const Net* net = nullptr;
    std::vector<S*> weight, bias;

    // At least 4 columns, the block of the transposition.
    static int padded(const Layer& layer) { return round_up(layer.out, std::max(Simd<S>::width, 4)); }
    static size_t need(const Net& net) {
        size_t total = 0;
        for (const Layer& layer : net.layers) total += (size_t)(layer.in + 1) * padded(layer) + 32;
        return total;
    }
    void start(const Net& n, Sums<S> sums, Arena<S>& memory) {
        target = sums;
        net = &n;
        if (!sums) return;
        for (const Layer& layer : n.layers) {
            const size_t size = (size_t)layer.in * padded(layer);
            weight.push_back(memory.take(size));
            bias.push_back(memory.take(padded(layer)));
            std::memset(weight.back(), 0, size * sizeof(S));
            std::memset(bias.back(), 0, padded(layer) * sizeof(S));
        }
    }
    // += H d^T for a tile; dT is d transposed, [T, padded].
    void add(int l, const S* prev, const S* E, const S* dT, int points) {
        const Layer& layer = net->layers[l];
        constexpr int T = Tile<S>::points;
        const int ld = padded(layer), nv = ld / Simd<S>::width;
        gemm<S>(layer.from_prev, points, prev, T, 1, dT, ld, nv, weight[l], ld, nullptr, true);
        if (layer.skip)
            gemm<S>(net->encoded, points, E, T, 1, dT, ld, nv, weight[l] + (size_t)layer.from_prev * ld, ld,
                    nullptr, true);
    }
    void add_bias(int l, const S* dT, int points) {
        const int ld = padded(net->layers[l]);
        for (int t = 0; t < points; ++t)
            for (int o = 0; o < ld; o += Simd<S>::width)
                vstore(bias[l] + o, vload(bias[l] + o) + vload(dT + (size_t)t * ld + o));
    }
    void finish() {
        if (!target) return;
        for (size_t l = 0; l < net->layers.size(); ++l) {
            const Layer& layer = net->layers[l];
            const int ld = padded(layer);
            for (int i = 0; i < layer.in; ++i)
                for (int o = 0; o < layer.out; ++o)
                    target.weight[l][(int64_t)i * layer.out + o] += weight[l][(size_t)i * ld + o];
            for (int o = 0; o < layer.out; ++o) target.bias[l][o] += bias[l][o];
        }
    }
};

// out = a * b over rows; out may be a.
template <class S>
static void multiply(int rows, int nv, const S* a, const S* b, S* out) {
    constexpr int T = Tile<S>::points, W = Simd<S>::width;
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < nv; ++v) {
            const int at = r * T + v * W;
            vstore(out + at, vload(a + at) * vload(b + at));
        }
}

template <class S>
static void forward(const Net& net, Slices<S> par, const S* x, int64_t n, S* y) {
    constexpr int T = Tile<S>::points, W = Simd<S>::width;
    Arena<S>& memory = arena<S>((size_t)(net.in_dim + net.encoded + 2 * net.max_dim + 64) * T);
    S* X = memory.take((size_t)net.in_dim * T);
    S* E = memory.take((size_t)net.encoded * T);
    S* A = memory.take((size_t)net.max_dim * T);
    S* B = memory.take((size_t)net.max_dim * T);
    const int last = (int)net.layers.size() - 1;
    for (int64_t at = 0; at < n; at += T) {
        const int points = (int)std::min<int64_t>(T, n - at), nv = (points + W - 1) / W;
        load_points(x + at * net.in_dim, net.in_dim, points, X, true);
        encode<S>(net, X, E, nullptr, nullptr, nv);
        const S* prev = E;
        for (int l = 0; l <= last; ++l) {
            S* Z = l % 2 ? B : A;
            layer_forward<S>(net.layers[l], par.weight[l], par.bias[l], prev, E, net.encoded, nv, Z, false);
            activate<S>(l == last ? net.output_activation : net.activation, net.w0, net.layers[l].out, nv, Z,
                        nullptr, nullptr);
            prev = Z;
        }
        store_points(prev, net.out_dim, points, y + at * net.out_dim);
    }
}

template <class S>
static void backward(const Net& net, Slices<S> par, const S* x, int64_t n, const S* grad_y, S* grad_x,
                     Sums<S> grads, Slices<S> inverse, S* scores, Sums<S> squares) {
    constexpr int T = Tile<S>::points, W = Simd<S>::width;
    const int L = (int)net.layers.size(), last = L - 1;
    const int wide = round_up(net.max_dim, 16);
    const size_t need = (size_t)(2 * net.in_dim + 3 * net.encoded + (2 * L + 8) * wide + 64) * T +
                        2 * Accumulator<S>::need(net);
    Arena<S>& memory = arena<S>(need);
    S* X = memory.take((size_t)net.in_dim * T);
    S* GX = memory.take((size_t)net.in_dim * T);
    S* E = memory.take((size_t)net.encoded * T);
    S* GE = memory.take((size_t)net.encoded * T);
    std::vector<S*> H(L), D(L);
    for (int l = 0; l < L; ++l) {
        H[l] = memory.take((size_t)net.layers[l].out * T);
        D[l] = memory.take((size_t)net.layers[l].out * T);
    }
    S* d = memory.take((size_t)wide * T);
    S* g = memory.take((size_t)wide * T);
    S* dT = memory.take((size_t)wide * T);
    S* hh = memory.take((size_t)(wide + net.encoded) * T);
    S* dd = memory.take((size_t)wide * T);
    S* q = memory.take((size_t)wide * T);
    Accumulator<S> sums, squared;
    sums.start(net, grads, memory);
    squared.start(net, squares, memory);
    const bool fisher = scores || squares;
    bool any_skip = false;
    for (const Layer& layer : net.layers) any_skip |= layer.skip;

    for (int64_t at = 0; at < n; at += T) {
        const int points = (int)std::min<int64_t>(T, n - at), nv = (points + W - 1) / W,
                  lanes = round_up(nv * W, 4);
        load_points(x + at * net.in_dim, net.in_dim, points, X, true);
        encode<S>(net, X, E, nullptr, nullptr, nv);
        const S* prev = E;
        for (int l = 0; l < L; ++l) {
            layer_forward<S>(net.layers[l], par.weight[l], par.bias[l], prev, E, net.encoded, nv, H[l],
                             false);
            activate<S>(l == last ? net.output_activation : net.activation, net.w0, net.layers[l].out, nv,
                        H[l], D[l], nullptr);
            prev = H[l];
        }
        load_points(grad_y + at * net.out_dim, net.out_dim, points, d, false);
        if (grad_x && any_skip) std::memset(GE, 0, sizeof(S) * net.encoded * T);
        Vec<S> score[T / W] = {};
        for (int l = last; l >= 0; --l) {
            const Layer& layer = net.layers[l];
            multiply<S>(layer.out, nv, d, D[l], d);
            prev = l > 0 ? H[l - 1] : E;
            const int ld = Accumulator<S>::padded(layer);
            if (grads) {
                if (ld > layer.out) std::memset(d + layer.out * T, 0, sizeof(S) * (ld - layer.out) * T);
                transpose<S>(ld, lanes, d, T, dT, ld);
                sums.add(l, prev, E, dT, points);
                sums.add_bias(l, dT, points);
            }
            if (fisher) {
                multiply<S>(layer.out, nv, d, d, dd);
                multiply<S>(layer.from_prev, nv, prev, prev, hh);
                if (layer.skip) multiply<S>(net.encoded, nv, E, E, hh + (size_t)layer.from_prev * T);
            }
            if (squares) {
                if (ld > layer.out) std::memset(dd + layer.out * T, 0, sizeof(S) * (ld - layer.out) * T);
                transpose<S>(ld, lanes, dd, T, dT, ld);
                squared.add(l, hh, hh + (size_t)layer.from_prev * T, dT, points);
                squared.add_bias(l, dT, points);
            }
            if (scores) {
                // One matrix product with the inverse in place of the weights, then a dot product with h^2 a
                // point.
                gemm<S>(layer.in, layer.out, inverse.weight[l], layer.out, 1, dd, T, nv, q, T, nullptr,
                        false);
                for (int v = 0; v < nv; ++v) {
                    Vec<S> s = {};
                    for (int i = 0; i < layer.in; ++i)
                        s = vfma(vload(q + i * T + v * W), vload(hh + i * T + v * W), s);
                    for (int o = 0; o < layer.out; ++o)
                        s = vfma(vload(dd + o * T + v * W), vset<S>(inverse.bias[l][o]), s);
                    score[v] = score[v] + s;
                }
            }
            if (l > 0) {
                layer_backward<S>(layer, par.weight[l], d, net.encoded, nv, g, grad_x ? GE : nullptr, false);
                std::swap(d, g);
            } else if (grad_x) {
                layer_backward<S>(layer, par.weight[l], d, net.encoded, nv, GE, nullptr, any_skip);
                encode_backward<S>(net, X, E, GE, nullptr, nullptr, GX, nv);
                store_points(GX, net.in_dim, points, grad_x + at * net.in_dim);
            }
        }
        if (scores)
            for (int t = 0; t < points; ++t) scores[at + t] = score[t / W][t % W];
    }
    sums.finish();
    squared.finish();
}

template <class S>
static void second(const Net& net, Slices<S> par, const S* x, int64_t n, const S* grad_y, const S* tangent_x,
                   Slices<S> tangent, S* grad_x, Sums<S> grads, S* grad_grad_y) {
    constexpr int T = Tile<S>::points, W = Simd<S>::width;
    const int L = (int)net.layers.size(), last = L - 1;
    const int wide = round_up(net.max_dim, 16);
    const size_t need =
        (size_t)(3 * net.in_dim + 5 * net.encoded + (4 * L + 8) * wide + 64) * T + Accumulator<S>::need(net);
    Arena<S>& memory = arena<S>(need);
    S* X = memory.take((size_t)net.in_dim * T);
    S* Xt = memory.take((size_t)net.in_dim * T);
    S* GX = memory.take((size_t)net.in_dim * T);
    S* E = memory.take((size_t)net.encoded * T);
    S* Et = memory.take((size_t)net.encoded * T);
    S* GE = memory.take((size_t)net.encoded * T);
    S* GEt = memory.take((size_t)net.encoded * T);
    std::vector<S*> H(L), Ht(L), D(L), C(L);  // C: a''(z) zt, by which d reaches the tangent of d
    for (int l = 0; l < L; ++l)
        for (auto* rows : {&H, &Ht, &D, &C}) (*rows)[l] = memory.take((size_t)net.layers[l].out * T);
    S* d = memory.take((size_t)wide * T);
    S* dt = memory.take((size_t)wide * T);
    S* g = memory.take((size_t)wide * T);
    S* gt = memory.take((size_t)wide * T);
    S* dT = memory.take((size_t)wide * T);
    Accumulator<S> sums;
    sums.start(net, grads, memory);

    for (int64_t at = 0; at < n; at += T) {
        const int points = (int)std::min<int64_t>(T, n - at), nv = (points + W - 1) / W,
                  lanes = round_up(nv * W, 4);
        load_points(x + at * net.in_dim, net.in_dim, points, X, true);
        load_points(tangent_x + at * net.in_dim, net.in_dim, points, Xt, false);
        encode<S>(net, X, E, Xt, Et, nv);
        const S *prev = E, *prevt = Et;
        for (int l = 0; l < L; ++l) {
            const Layer& layer = net.layers[l];
            layer_forward<S>(layer, par.weight[l], par.bias[l], prev, E, net.encoded, nv, H[l], false);
            layer_forward<S>(layer, par.weight[l], nullptr, prevt, Et, net.encoded, nv, Ht[l], false);
            layer_forward<S>(layer, tangent.weight[l], nullptr, prev, E, net.encoded, nv, Ht[l], true);
            for (int o = 0; o < layer.out; ++o)
                for (int v = 0; v < nv; ++v) {
                    S* p = Ht[l] + o * T + v * W;
                    vstore(p, vload(p) + vset<S>(tangent.bias[l][o]));
                }
            activate<S>(l == last ? net.output_activation : net.activation, net.w0, layer.out, nv, H[l], D[l],
                        C[l]);
            multiply<S>(layer.out, nv, C[l], Ht[l], C[l]);
            multiply<S>(layer.out, nv, Ht[l], D[l], Ht[l]);
            prev = H[l];
            prevt = Ht[l];
        }
        store_points(prevt, net.out_dim, points, grad_grad_y + at * net.out_dim);

        load_points(grad_y + at * net.out_dim, net.out_dim, points, g, false);
        std::memset(gt, 0, sizeof(S) * net.out_dim * T);
        std::memset(GE, 0, sizeof(S) * net.encoded * T);
        std::memset(GEt, 0, sizeof(S) * net.encoded * T);
        for (int l = last; l >= 0; --l) {
            const Layer& layer = net.layers[l];
            for (int i = 0; i < layer.out; ++i)
                for (int v = 0; v < nv; ++v) {
                    const int p = i * T + v * W;
                    const Vec<S> gv = vload(g + p), a = vload(D[l] + p);
                    vstore(d + p, gv * a);
                    vstore(dt + p, vfma(gv, vload(C[l] + p), vload(gt + p) * a));
                }
            prev = l > 0 ? H[l - 1] : E;
            prevt = l > 0 ? Ht[l - 1] : Et;
            if (grads) {
                const int ld = Accumulator<S>::padded(layer);
                if (ld > layer.out) {
                    std::memset(d + layer.out * T, 0, sizeof(S) * (ld - layer.out) * T);
                    std::memset(dt + layer.out * T, 0, sizeof(S) * (ld - layer.out) * T);
                }
                transpose<S>(ld, lanes, dt, T, dT, ld);
                sums.add(l, prev, E, dT, points);
                sums.add_bias(l, dT, points);
                transpose<S>(ld, lanes, d, T, dT, ld);
                sums.add(l, prevt, Et, dT, points);
            }
            S *G = l > 0 ? g : GE, *Gt = l > 0 ? gt : GEt;
            layer_backward<S>(layer, par.weight[l], d, net.encoded, nv, G, GE, l == 0);
            layer_backward<S>(layer, par.weight[l], dt, net.encoded, nv, Gt, GEt, l == 0);
            layer_backward<S>(layer, tangent.weight[l], d, net.encoded, nv, Gt, GEt, true);
        }
        if (grad_x) {
            encode_backward<S>(net, X, E, GE, Xt, GEt, GX, nv);
            store_points(GX, net.in_dim, points, grad_x + at * net.in_dim);
        }
    }
    sums.finish();
}

template <class S>
static constexpr BankTable<S> make_table(const char* name) {
    return {name, &forward<S>, &backward<S>, &second<S>};
}

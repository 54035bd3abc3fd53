// A tile of points: its memory, its activations, and the encoding with its derivatives.
//
// Included once per instruction set after simd.h (no include guard, see simd.h). A tile holds features as
// rows and points as vector lanes.

// Points a tile: four vectors, so that one column of register blocks covers it.
template <class S>
struct Tile {
    static constexpr int W = Simd<S>::width;
    static constexpr int points = 4 * W;
};

static inline int round_up(int a, int b) { return (a + b - 1) / b * b; }

// Memory of a thread, handed out front to back within one call.
template <class S>
struct Arena {
    std::vector<S> store;
    size_t used = 0;
    S* take(size_t count) {
        const size_t at = used;
        used += (count + 15) / 16 * 16;
        return aligned() + at;
    }
    S* aligned() {
        const uintptr_t p = reinterpret_cast<uintptr_t>(store.data());
        return reinterpret_cast<S*>((p + 63) / 64 * 64);
    }
    void reserve(size_t count) {
        if (store.size() < count + 64) store.resize(count + 64);
        used = 0;
    }
};

template <class S>
static Arena<S>& arena(size_t count) {
    static thread_local Arena<S> memory;
    memory.reserve(count);
    return memory;
}

// Points as rows in memory -> points as lanes. Lanes beyond `n` repeat the last point: finite wherever it is.
template <class S>
static void load_points(const S* x, int dims, int n, S* out, bool repeat) {
    constexpr int T = Tile<S>::points;
    for (int d = 0; d < dims; ++d) {
        for (int t = 0; t < n; ++t) out[d * T + t] = x[(int64_t)t * dims + d];
        for (int t = n; t < T; ++t) out[d * T + t] = repeat ? out[d * T + n - 1] : S(0);
    }
}
template <class S>
static void store_points(const S* in, int dims, int n, S* y) {
    constexpr int T = Tile<S>::points;
    for (int t = 0; t < n; ++t)
        for (int d = 0; d < dims; ++d) y[(int64_t)t * dims + d] = in[d * T + t];
}

// Z -> a(Z) in place, with a'(Z) and a''(Z) where asked for.
template <class S>
static void activate(int kind, double w0, int rows, int nv, S* Z, S* D1, S* D2) {
    constexpr int T = Tile<S>::points, W = Simd<S>::width;
    typedef Vec<S> V;
    const V one = vset<S>(1), zero = vset<S>(0), w = vset<S>(S(w0));
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < nv; ++v) {
            S* p = Z + r * T + v * W;
            const V z = vload(p);
            V h = z, d1 = one, d2 = zero;
            switch (kind) {
                case kRelu:
                    // Written so that NaN stays NaN.
                    h = z < 0 ? zero : z;
                    d1 = z > 0 ? one : zero;
                    break;
                case kSine: {
                    V s, c;
                    vsincos(w * z, s, c);
                    h = s;
                    d1 = w * c;
                    d2 = -w * w * s;
                    break;
                }
                case kSoftplus: {
                    const V u = vexp(z < 0 ? z : -z), q = one / (one + u);
                    h = (z > 0 ? z : zero) + vlog1p01(u);
                    d1 = z < 0 ? u * q : q;
                    d2 = u * q * q;
                    break;
                }
                case kTanh:
                    h = vtanh(z);
                    d1 = one - h * h;
                    d2 = S(-2) * h * d1;
                    break;
                case kSigmoid: {
                    const V u = vexp(z < 0 ? z : -z), q = one / (one + u);
                    h = z < 0 ? u * q : q;
                    d1 = u * q * q;
                    d2 = d1 * (one - S(2) * h);
                    break;
                }
                case kExp:
                    h = d1 = d2 = vexp(z);
                    break;
                default:
                    break;
            }
            vstore(p, h);
            if (D1) vstore(D1 + r * T + v * W, d1);
            if (D2) vstore(D2 + r * T + v * W, d2);
        }
}

// E [encoded, T] from X [in_dim, T]; with tangents Et from Xt where those are given.
template <class S>
static void encode(const Net& net, const S* X, S* E, const S* Xt, S* Et, int nv) {
    constexpr int T = Tile<S>::points, W = Simd<S>::width;
    for (const EncodingPart& part : net.parts) {
        const S* x = X + part.start * T;
        const S* xt = Xt ? Xt + part.start * T : nullptr;
        const bool copy = part.kind == kIdentity || (part.kind == kFrequency && part.option);
        if (copy) {
            std::memcpy(E, x, sizeof(S) * part.dims * T);
            E += part.dims * T;
            if (Et) {
                std::memcpy(Et, xt, sizeof(S) * part.dims * T);
                Et += part.dims * T;
            }
        }
        if (part.kind == kFrequency) {
            for (const double frequency : part.frequencies) {
                const Vec<S> f = vset<S>(S(frequency));
                for (int d = 0; d < part.dims; ++d)
                    for (int v = 0; v < nv; ++v) {
                        const int at = d * T + v * W, cosine = part.dims * T;
                        Vec<S> s, c;
                        vsincos(f * vload(x + at), s, c);
                        vstore(E + at, s);
                        vstore(E + cosine + at, c);
                        if (Et) {
                            const Vec<S> ft = f * vload(xt + at);
                            vstore(Et + at, ft * c);
                            vstore(Et + cosine + at, -ft * s);
                        }
                    }
                E += 2 * part.dims * T;
                if (Et) Et += 2 * part.dims * T;
            }
        } else if (part.kind == kSpherical) {
            const int count = part.option * part.option;
            Dual<double> out[16];
            for (int t = 0; t < nv * W; ++t) {
                Dual<double> p[3];
                for (int d = 0; d < 3; ++d) p[d] = {double(x[d * T + t]), xt ? double(xt[d * T + t]) : 0.0};
                spherical_harmonics(part.option, p[0], p[1], p[2], out);
                for (int i = 0; i < count; ++i) {
                    E[i * T + t] = S(out[i].value);
                    if (Et) Et[i * T + t] = S(out[i].slope);
                }
            }
            E += count * T;
            if (Et) Et += count * T;
        }
    }
}

// GX [in_dim, T] = J^T G, with J the encoding's Jacobian at X and E its features. With tangents (Xt of the
// coordinates, Gt of the gradients): J^T Gt + (dJ along Xt)^T G, the derivative of the former.
template <class S>
static void encode_backward(const Net& net, const S* X, const S* E, const S* G, const S* Xt, const S* Gt,
                            S* GX, int nv) {
    constexpr int T = Tile<S>::points, W = Simd<S>::width;
    std::memset(GX, 0, sizeof(S) * net.in_dim * T);
    const S* first = Gt ? Gt : G;  // what J^T is applied to
    int row = 0;
    for (const EncodingPart& part : net.parts) {
        S* gx = GX + part.start * T;
        const S* xt = Xt ? Xt + part.start * T : nullptr;
        if (part.kind == kIdentity || (part.kind == kFrequency && part.option)) {
            for (int i = 0; i < part.dims * T; i += W)
                vstore(gx + i, vload(gx + i) + vload(first + row * T + i));
            row += part.dims;
        }
        if (part.kind == kFrequency) {
            for (const double frequency : part.frequencies) {
                const Vec<S> f = vset<S>(S(frequency));
                for (int d = 0; d < part.dims; ++d)
                    for (int v = 0; v < nv; ++v) {
                        const int at = d * T + v * W, si = row * T + at, co = (row + part.dims) * T + at;
                        const Vec<S> s = vload(E + si), c = vload(E + co);
                        Vec<S> g = f * (c * vload(first + si) - s * vload(first + co));
                        if (Gt) g = g - f * f * vload(xt + at) * (s * vload(G + si) + c * vload(G + co));
                        vstore(gx + at, vload(gx + at) + g);
                    }
                row += 2 * part.dims;
            }
        } else if (part.kind == kSpherical) {
            const int count = part.option * part.option;
            const S* x = X + part.start * T;
            typedef Dual<double> D1;
            Dual<D1> out[16];
            for (int t = 0; t < nv * W; ++t)
                for (int k = 0; k < 3;
                     ++k) {  // outer slope: along coordinate k; inner slope: along the tangent
                    Dual<D1> p[3];
                    for (int d = 0; d < 3; ++d)
                        p[d] = {{double(x[d * T + t]), xt ? double(xt[d * T + t]) : 0.0},
                                {d == k ? 1.0 : 0.0, 0.0}};
                    spherical_harmonics(part.option, p[0], p[1], p[2], out);
                    double sum = 0;
                    for (int i = 0; i < count; ++i) {
                        sum += out[i].slope.value * double(first[(row + i) * T + t]);
                        if (Gt) sum += out[i].slope.slope * double(G[(row + i) * T + t]);
                    }
                    gx[k * T + t] += S(sum);
                }
            row += count;
        }
    }
}

// A tile of points: its memory, its activations, and the encoding with its
// derivatives.
//
// Included once per instruction set after gemm_tile.h (no include guard, see
// simd.h). A tile is a few panels (gemm_tile.h) that go through a layer
// together, so that the layer's weights are read once for all of them.

static inline int round_up(int a, int b) { return (a + b - 1) / b * b; }

// Memory of a thread, handed out front to back within one call. Grows while a
// call asks for more, and is one piece again at the next.
template <class S>
class Arena {
  public:
    S* take(size_t count) {
        count = (count + 15) / 16 * 16;
        if (pieces_.empty() || used_ + count > pieces_.back().size) {
            Piece piece;
            piece.size = std::max<size_t>(count, 1 << 16);
            piece.store.reset(new S[piece.size + 64 / sizeof(S)]);
            total_ += piece.size;
            used_ = 0;
            pieces_.push_back(std::move(piece));
        }
        const uintptr_t p = reinterpret_cast<uintptr_t>(pieces_.back().store.get());
        S* at = reinterpret_cast<S*>((p + 63) / 64 * 64) + used_;
        used_ += count;
        return at;
    }
    // Plain objects, which nobody destroys: a heap's vectors take long beside the few points of a small run.
    template <class T>
    T* objects(size_t count) {
        static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= 64);
        T* at = reinterpret_cast<T*>(take((count * sizeof(T) + sizeof(S) - 1) / sizeof(S)));
        for (size_t i = 0; i < count; ++i) new (at + i) T();
        return at;
    }
    S* zeros(size_t count) {
        S* at = take(count);
        std::memset(at, 0, count * sizeof(S));
        return at;
    }
    void reset() {
        if (pieces_.size() > 1) {
            pieces_.clear();
            const size_t size = total_;
            total_ = 0;
            take(size);
        }
        used_ = 0;
    }

  private:
    struct Piece {
        std::unique_ptr<S[]> store;
        size_t size;
    };
    std::vector<Piece> pieces_;
    size_t used_ = 0, total_ = 0;
};

template <class S>
static Arena<S>& arena() {
    static thread_local Arena<S> memory;
    memory.reset();
    return memory;
}

template <class S>
struct Tile {
    static constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    int points, panels;

    explicit Tile(int n) : points(n), panels((n + L - 1) / L) {}
    int in_panel(int p) const { return std::min(L, points - p * L); }
    // Vectors of a panel that hold points; at least 4 lanes, the block of a
    // transposition.
    int vectors(int p) const { return round_up(in_panel(p), std::max(W, 4)) / W; }
};

// A matrix of a tile: `rows` features a panel.
template <class S>
struct Rows {
    S* at = nullptr;
    int rows = 0;

    Rows() = default;
    Rows(Arena<S>& memory, int count, int panels)
        : at(memory.take((size_t)count * panels * Panel<S>::lanes)), rows(count) {}
    explicit operator bool() const { return at != nullptr; }
    int64_t stride() const { return (int64_t)rows * Panel<S>::lanes; }
    S* panel(int p) const { return at + p * stride(); }
};

// Points as rows in memory -> points as lanes. Lanes beyond the last point, as far as a vector holds points,
// repeat it (finite wherever it is), or are 0; nobody reads those further on.
template <class S>
static void load_points(const S* x, const Tile<S>& tile, const Rows<S>& out, int dims, bool repeat) {
    constexpr int L = Panel<S>::lanes;
    for (int p = 0; p < tile.panels; ++p) {
        const int n = tile.in_panel(p), lanes = tile.vectors(p) * Simd<S>::width;
        const S* from = x + (int64_t)p * L * dims;
        S* to = out.panel(p);
        for (int d = 0; d < dims; ++d) {
            for (int t = 0; t < n; ++t) to[d * L + t] = from[(int64_t)t * dims + d];
            for (int t = n; t < lanes; ++t) to[d * L + t] = repeat ? to[d * L + n - 1] : S(0);
        }
    }
}
template <class S>
static void store_points(const Rows<S>& in, const Tile<S>& tile, int dims, S* y) {
    constexpr int L = Panel<S>::lanes;
    for (int p = 0; p < tile.panels; ++p) {
        const int n = tile.in_panel(p);
        const S* from = in.panel(p);
        S* to = y + (int64_t)p * L * dims;
        for (int t = 0; t < n; ++t)
            for (int d = 0; d < dims; ++d) to[(int64_t)t * dims + d] = from[d * L + t];
    }
}

// Z -> a(Z) in place, with a'(Z) where asked for; with tangents T of Z, T -> a'(Z) T and C = a''(Z) T.
template <class S, int kind>
static void activate_as(double w0, int rows, int nv, S* Z, S* D1, S* T, S* C) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    typedef Vec<S> V;
    const V one = vset<S>(1), zero = vset<S>(0), w = vset<S>(S(w0));
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < nv; ++v) {
            S* p = Z + r * L + v * W;
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
            if (D1) vstore(D1 + r * L + v * W, d1);
            if (T) {
                const V t = vload(T + r * L + v * W);
                vstore(T + r * L + v * W, d1 * t);
                vstore(C + r * L + v * W, d2 * t);
            }
        }
}

#if MCLNF_VBYTES >= 32
// As `activate_as` for the sine, over whole panels.
template <bool Derivative, bool Tangent>
static void activate_sine(double w0, int rows, float* Z, float* D1, float* T, float* C) {
    constexpr int W = Simd<float>::width, N = kColumnVectors;
    const VF w = vset<float>(float(w0)), curve = -w * w;
    for (int r = 0; r < rows; ++r, Z += N * W) {
        VF z[N], s[N], c[N];
        for (int v = 0; v < N; ++v) z[v] = w * vload(Z + v * W);
        const int64_t at = (int64_t)r * N * W;
        if (__builtin_expect(vbeyond(z, kNear), 0)) {
            activate_as<float, kSine>(w0, 1, N, Z, Derivative ? D1 + at : nullptr, Tangent ? T + at : nullptr,
                                      Tangent ? C + at : nullptr);
            continue;
        }
        VF reduced[N];
        VI q[N];
        vreduce_near(z, reduced, q);
        vsincos_reduced(reduced, q, s, c);
        for (int v = 0; v < N; ++v) {
            const int64_t i = at + v * W;
            const VF d1 = w * c[v];
            vstore(Z + v * W, s[v]);
            if (Derivative) vstore(D1 + i, d1);
            if (!Tangent) continue;
            const VF t = vload(T + i);
            vstore(T + i, d1 * t);
            vstore(C + i, curve * s[v] * t);
        }
    }
}
#endif

template <class S>
static void activate(int kind, double w0, int rows, int nv, S* Z, S* D1, S* T = nullptr, S* C = nullptr) {
#if MCLNF_VBYTES >= 32
    if constexpr (std::is_same_v<S, float>)
        if (kind == kSine && nv == kColumnVectors && (D1 || !T))
            return T    ? activate_sine<true, true>(w0, rows, Z, D1, T, C)
                   : D1 ? activate_sine<true, false>(w0, rows, Z, D1, T, C)
                        : activate_sine<false, false>(w0, rows, Z, D1, T, C);
#endif
    switch (kind) {
#define MCLNF_KIND(K)                                 \
    case K:                                           \
        activate_as<S, K>(w0, rows, nv, Z, D1, T, C); \
        break;
        MCLNF_KIND(kNone)
        MCLNF_KIND(kRelu)
        MCLNF_KIND(kSine)
        MCLNF_KIND(kSoftplus)
        MCLNF_KIND(kTanh)
        MCLNF_KIND(kSigmoid)
        MCLNF_KIND(kExp)
#undef MCLNF_KIND
    }
}

// E [encoded, lanes] from X [in_dim, lanes]; with tangents Et from Xt where
// those are given.
template <class S>
static void encode(const Net& net, const S* X, S* E, const S* Xt, S* Et, int nv) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    for (const EncodingPart& part : net.parts) {
        const S* x = X + part.start * L;
        const S* xt = Xt ? Xt + part.start * L : nullptr;
        const bool copy = part.kind == kIdentity || (part.kind == kFrequency && part.option);
        if (copy) {
            std::memcpy(E, x, sizeof(S) * part.dims * L);
            E += part.dims * L;
            if (Et) {
                std::memcpy(Et, xt, sizeof(S) * part.dims * L);
                Et += part.dims * L;
            }
        }
        if (part.kind == kFrequency) {
            for (const double frequency : part.frequencies) {
                const Vec<S> f = vset<S>(S(frequency));
                for (int d = 0; d < part.dims; ++d)
                    for (int v = 0; v < nv; ++v) {
                        const int at = d * L + v * W, cosine = part.dims * L;
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
                E += 2 * part.dims * L;
                if (Et) Et += 2 * part.dims * L;
            }
        } else if (part.kind == kSpherical) {
            const int count = part.option * part.option;
            Dual<double> out[16];
            for (int t = 0; t < nv * W; ++t) {
                Dual<double> p[3];
                for (int d = 0; d < 3; ++d) p[d] = {double(x[d * L + t]), xt ? double(xt[d * L + t]) : 0.0};
                spherical_harmonics(part.option, p[0], p[1], p[2], out);
                for (int i = 0; i < count; ++i) {
                    E[i * L + t] = S(out[i].value);
                    if (Et) Et[i * L + t] = S(out[i].slope);
                }
            }
            E += count * L;
            if (Et) Et += count * L;
        }
    }
}

// GX [in_dim, lanes] = J^L G, with J the encoding's Jacobian at X and E its
// features. With tangents (Xt of the coordinates, Gt of the gradients): J^L Gt
// + (dJ along Xt)^L G, the derivative of the former (Xt null: 0).
template <class S>
static void encode_backward(const Net& net, const S* X, const S* E, const S* G, const S* Xt, const S* Gt,
                            S* GX, int nv) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    std::memset(GX, 0, sizeof(S) * net.in_dim * L);
    const S* first = Gt ? Gt : G;  // what J^L is applied to
    int row = 0;
    for (const EncodingPart& part : net.parts) {
        S* gx = GX + part.start * L;
        const S* xt = Xt ? Xt + part.start * L : nullptr;
        if (part.kind == kIdentity || (part.kind == kFrequency && part.option)) {
            for (int i = 0; i < part.dims * L; i += W)
                vstore(gx + i, vload(gx + i) + vload(first + row * L + i));
            row += part.dims;
        }
        if (part.kind == kFrequency) {
            for (const double frequency : part.frequencies) {
                const Vec<S> f = vset<S>(S(frequency));
                for (int d = 0; d < part.dims; ++d)
                    for (int v = 0; v < nv; ++v) {
                        const int at = d * L + v * W, si = row * L + at, co = (row + part.dims) * L + at;
                        const Vec<S> s = vload(E + si), c = vload(E + co);
                        Vec<S> g = f * (c * vload(first + si) - s * vload(first + co));
                        if (Gt && xt)
                            g = g - f * f * vload(xt + at) * (s * vload(G + si) + c * vload(G + co));
                        vstore(gx + at, vload(gx + at) + g);
                    }
                row += 2 * part.dims;
            }
        } else if (part.kind == kSpherical) {
            const int count = part.option * part.option;
            const S* x = X + part.start * L;
            typedef Dual<double> D1;
            Dual<D1> out[16];
            for (int t = 0; t < nv * W; ++t)
                for (int k = 0; k < 3; ++k) {  // outer slope: along coordinate k; inner
                                               // slope: along the tangent
                    Dual<D1> p[3];
                    for (int d = 0; d < 3; ++d)
                        p[d] = {{double(x[d * L + t]), xt ? double(xt[d * L + t]) : 0.0},
                                {d == k ? 1.0 : 0.0, 0.0}};
                    spherical_harmonics(part.option, p[0], p[1], p[2], out);
                    double sum = 0;
                    for (int i = 0; i < count; ++i) {
                        sum += out[i].slope.value * double(first[(row + i) * L + t]);
                        if (Gt) sum += out[i].slope.slope * double(G[(row + i) * L + t]);
                    }
                    gx[k * L + t] += S(sum);
                }
            row += count;
        }
    }
}

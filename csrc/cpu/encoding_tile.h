// The encoding of a panel of coordinates, and the way of gradients back through it.
//
// Included once per instruction set after elementary.h and gemm_tile.h (no include guard, see simd.h).

// Rows of a panel and, if given, their tangents along a direction.
template <class S>
struct PanelPair {
    S* values = nullptr;
    S* tangent = nullptr;

    PanelPair offset(int64_t rows) const {
        const int64_t by = rows * Panel<std::remove_const_t<S>>::lanes;
        return {values + by, tangent ? tangent + by : nullptr};
    }
};

static inline bool copies_input(const EncodingPart& part) {
    return part.kind == kIdentity || (part.kind == kFrequency && part.option);
}

// sin(f x) and cos(f x) of every frequency f, and their tangents.
template <class S>
static void encode_frequencies(const EncodingPart& part, PanelPair<const S> x, PanelPair<S> E, int vectors) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    for (const double frequency : part.frequencies) {
        const Vec<S> f = vset<S>(S(frequency));
        for (int d = 0; d < part.dims; ++d)
            for (int v = 0; v < vectors; ++v) {
                const int i = d * L + v * W, cosine = part.dims * L;
                Vec<S> s, c;
                vsincos(f * vload(x.values + i), s, c);
                vstore(E.values + i, s);
                vstore(E.values + cosine + i, c);
                if (E.tangent) {
                    const Vec<S> ft = f * vload(x.tangent + i);
                    vstore(E.tangent + i, ft * c);
                    vstore(E.tangent + cosine + i, -ft * s);
                }
            }
        E = E.offset(2 * part.dims);
    }
}

// Spherical harmonics in double, lane by lane, with tangents by dual numbers: directions are few, one per ray
// as a rule, and the polynomials cancel in single precision.
template <class S>
static void encode_spherical(const EncodingPart& part, PanelPair<const S> x, PanelPair<S> E, int vectors) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    constexpr int kMaxFeatures = kMaxSphericalDegree * kMaxSphericalDegree;
    const int count = part.option * part.option;
    Dual<double> out[kMaxFeatures];
    for (int t = 0; t < vectors * W; ++t) {
        Dual<double> p[3];
        for (int d = 0; d < 3; ++d)
            p[d] = {double(x.values[d * L + t]), x.tangent ? double(x.tangent[d * L + t]) : 0.0};
        spherical_harmonics(part.option, p[0], p[1], p[2], out);
        for (int i = 0; i < count; ++i) {
            E.values[i * L + t] = S(out[i].value);
            if (E.tangent) E.tangent[i * L + t] = S(out[i].derivative);
        }
    }
}

// E [encoded, lanes] from X [in_dim, lanes], with tangents if both have them.
template <class S>
static void encode(const Net& net, PanelPair<const S> X, PanelPair<S> E, int vectors) {
    constexpr int L = Panel<S>::lanes;
    for (const EncodingPart& part : net.parts) {
        const PanelPair<const S> x = X.offset(part.start);
        if (copies_input(part)) {
            std::memcpy(E.values, x.values, sizeof(S) * part.dims * L);
            if (E.tangent) std::memcpy(E.tangent, x.tangent, sizeof(S) * part.dims * L);
            E = E.offset(part.dims);
        }
        if (part.kind == kFrequency) {
            encode_frequencies<S>(part, x, E, vectors);
            E = E.offset(2 * part.dims * static_cast<int64_t>(part.frequencies.size()));
        } else if (part.kind == kSpherical) {
            encode_spherical<S>(part, x, E, vectors);
            E = E.offset(part.option * part.option);
        }
    }
}

// The gradient G of a panel's features, on its way to the coordinates: with J the encoding's Jacobian, J^T G
// or, with a tangent of G given, the derivative of that along the tangents: J^T Gt + (dJ along Xt)^T G.
template <class S>
struct EncodingBackward {
    static constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    const Net& net;
    PanelPair<const S> X;  // coordinates; no tangent: that of J is 0
    const S* E;            // features: the sines and cosines are the derivatives of each other
    PanelPair<const S> G;  // gradients of the features
    int vectors;

    // GX [in_dim, lanes].
    void run(S* GX) const {
        std::memset(GX, 0, sizeof(S) * net.in_dim * L);
        int row = 0;
        for (const EncodingPart& part : net.parts) {
            S* gx = GX + part.start * L;
            if (copies_input(part)) {
                const S* g = transported() + row * L;
                for (int i = 0; i < part.dims * L; i += W) vstore(gx + i, vload(gx + i) + vload(g + i));
                row += part.dims;
            }
            if (part.kind == kFrequency)
                row = add_frequencies(part, row, gx);
            else if (part.kind == kSpherical)
                row = add_spherical(part, row, gx);
        }
    }

  private:
    // The vector that J^T is applied to.
    const S* transported() const { return G.tangent ? G.tangent : G.values; }

    // Both add the share of the rows from `row` on to gx, and return the first row behind those.
    int add_frequencies(const EncodingPart& part, int row, S* gx) const {
        const S *g0 = transported(), *features = E, *gradients = G.values;
        const S* xt = X.tangent ? X.tangent + part.start * L : nullptr;
        const bool bends = G.tangent && xt;
        for (const double frequency : part.frequencies) {
            const Vec<S> f = vset<S>(S(frequency));
            for (int d = 0; d < part.dims; ++d)
                for (int v = 0; v < vectors; ++v) {
                    const int i = d * L + v * W, si = row * L + i, co = (row + part.dims) * L + i;
                    const Vec<S> s = vload(features + si), c = vload(features + co);
                    Vec<S> g = f * (c * vload(g0 + si) - s * vload(g0 + co));
                    if (bends)
                        g = g -
                            f * f * vload(xt + i) * (s * vload(gradients + si) + c * vload(gradients + co));
                    vstore(gx + i, vload(gx + i) + g);
                }
            row += 2 * part.dims;
        }
        return row;
    }

    int add_spherical(const EncodingPart& part, int row, S* gx) const {
        constexpr int kMaxFeatures = kMaxSphericalDegree * kMaxSphericalDegree;
        const int count = part.option * part.option;
        const S *x = X.values + part.start * L, *xt = X.tangent ? X.tangent + part.start * L : nullptr;
        const S* g0 = transported();
        typedef Dual<double> Inner;
        Dual<Inner> out[kMaxFeatures];
        for (int t = 0; t < vectors * W; ++t)
            for (int k = 0; k < 3; ++k) {
                // The outer derivative is along coordinate k, the inner one along the tangent.
                Dual<Inner> p[3];
                for (int d = 0; d < 3; ++d)
                    p[d] = {{double(x[d * L + t]), xt ? double(xt[d * L + t]) : 0.0},
                            {d == k ? 1.0 : 0.0, 0.0}};
                spherical_harmonics(part.option, p[0], p[1], p[2], out);
                double sum = 0;
                for (int i = 0; i < count; ++i) {
                    sum += out[i].derivative.value * double(g0[(row + i) * L + t]);
                    if (G.tangent) sum += out[i].derivative.derivative * double(G.values[(row + i) * L + t]);
                }
                gx[k * L + t] += S(sum);
            }
        return row + count;
    }
};

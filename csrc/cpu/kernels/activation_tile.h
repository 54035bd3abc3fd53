// Activations over a panel, with their derivatives.
//
// Included once per instruction set after elementary.h and gemm_tile.h (no include guard, see simd.h).

// The rows of an activation's values and derivatives; null: not asked for. All in one pass, because the
// derivatives share the exponential, or the sine and cosine, with the value.
template <class S>
struct ActivationRows {
    S* values;                // z -> a(z)
    S* derivative = nullptr;  // a'(z)
    S* tangent = nullptr;     // t, a tangent of z -> a'(z) t
    S* second = nullptr;      // with `tangent`: a''(z) t
};

// One activation, known to the compiler, over `vectors` vectors of each row.
template <class S, int kind>
static void activate_as(double w0, int rows, int vectors, const ActivationRows<S> to) {
    constexpr int L = Panel<S>::lanes, W = Simd<S>::width;
    typedef Vec<S> V;
    const V one = vset<S>(1), zero = vset<S>(0), w = vset<S>(S(w0));
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vectors; ++v) {
            const int i = r * L + v * W;
            S* p = to.values + i;
            const V z = vload(p);
            V h = z, d1 = one, d2 = zero;
            switch (kind) {
                case kRelu:
                    // Written so that NaN stays NaN: a maximum would hide it behind a 0.
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
                    // Of -|z|, whose exponential can't overflow.
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
            if (to.derivative) vstore(to.derivative + i, d1);
            if (to.tangent) {
                const V t = vload(to.tangent + i);
                vstore(to.tangent + i, d1 * t);
                vstore(to.second + i, d2 * t);
            }
        }
}

#if MCLNF_FUSED
// As `activate_as` for the sine, over whole panels: a row's vectors go through the polynomials side by side,
// which a call per vector would leave to wait for each other. A row with an angle beyond the range of the
// single-precision reduction takes the general way.
template <bool Derivative, bool Tangent>
static void activate_sine(double w0, int rows, ActivationRows<float> to) {
    constexpr int W = Simd<float>::width, N = kColumnVectors;
    const VF w = vset<float>(float(w0)), second = -w * w;
    float* Z = to.values;
    for (int r = 0; r < rows; ++r, Z += N * W) {
        VF z[N], s[N], c[N];
        MCLNF_IN_REGISTERS
        for (int v = 0; v < N; ++v) z[v] = w * vload(Z + v * W);
        const int64_t row = (int64_t)r * N * W;
        if (__builtin_expect(vbeyond(z, kMaxNearAngle), 0)) {
            activate_as<float, kSine>(
                w0, 1, N,
                {Z, Derivative ? to.derivative + row : nullptr, Tangent ? to.tangent + row : nullptr,
                 Tangent ? to.second + row : nullptr});
            continue;
        }
        VF reduced[N];
        VI q[N];
        vreduce_near(z, reduced, q);
        vsincos_reduced(reduced, q, s, c);
        MCLNF_IN_REGISTERS
        for (int v = 0; v < N; ++v) {
            const int64_t i = row + v * W;
            const VF d1 = w * c[v];
            vstore(Z + v * W, s[v]);
            if (Derivative) vstore(to.derivative + i, d1);
            if (!Tangent) continue;
            const VF t = vload(to.tangent + i);
            vstore(to.tangent + i, d1 * t);
            vstore(to.second + i, second * s[v] * t);
        }
    }
}
#endif

// `kind` (an Activation) over `vectors` vectors of each row.
template <class S>
static void activate(int kind, double w0, int rows, int vectors, const ActivationRows<S>& to) {
#if MCLNF_FUSED
    if constexpr (std::is_same_v<S, float>)
        if (kind == kSine && vectors == kColumnVectors && (to.derivative || !to.tangent))
            return to.tangent      ? activate_sine<true, true>(w0, rows, to)
                   : to.derivative ? activate_sine<true, false>(w0, rows, to)
                                   : activate_sine<false, false>(w0, rows, to);
#endif
    switch (kind) {
#define MCLNF_KIND(enumerator, name, number)               \
    case enumerator:                                       \
        activate_as<S, enumerator>(w0, rows, vectors, to); \
        break;
        MCLNF_ACTIVATIONS(MCLNF_KIND)
#undef MCLNF_KIND
    }
}

// Elementary functions over vectors: exponentials, logarithm, hyperbolic tangent, sine and cosine.
//
// Included once per instruction set after simd.h (no include guard, see there). In float they are polynomials
// without branches: a call of the library per lane would cost more than the layer's product. In double, which
// only checks of derivatives use, they are the library's, lane by lane.

// Applies a scalar function lane by lane.
template <class F>
MCLNF_LANE VD vlanes(VD x, F f) {
    for (int i = 0; i < Simd<double>::width; ++i) x[i] = f(x[i]);
    return x;
}

// e^x - 1 and e^x. x = n ln 2 + r, |r| <= ln(2)/2, e^r - 1 by its Taylor series (the remainder of degree 8 is
// below 1e-9 there). Both come from one reduction: the softplus and the attenuation of a ray need both, and
// e^x - 1 formed by a subtraction would lose its bits near 0.
MCLNF_LANE void vexp_both(VF x, VF& e, VF& em1) {
    // Out of range, the result is that of IEEE: 0 and infinity. NaN passes the comparisons and stays NaN.
    x = x > 89.0f ? vset<float>(89.0f) : x;
    x = x < -104.0f ? vset<float>(-104.0f) : x;
    const VF magic = vset<float>(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    VF n = vfma(x, vset<float>(1.44269504f), magic);
    const VI k = (VI)n - (VI)magic;
    n = n - magic;
    VF r = vfma(n, vset<float>(-0.693359375f), x);
    r = vfma(n, vset<float>(2.12194440e-4f), r);
    VF p = vset<float>(1.9841270e-4f);
    p = vfma(p, r, vset<float>(1.3888889e-3f));
    p = vfma(p, r, vset<float>(8.3333333e-3f));
    p = vfma(p, r, vset<float>(4.1666667e-2f));
    p = vfma(p, r, vset<float>(1.6666667e-1f));
    p = vfma(p, r, vset<float>(0.5f));
    p = vfma(p * r, r, r);
    // 2^k in two factors: with one, results below the normal range and above 2^127 would be 0 and infinity.
    const VI half = k >> 1, rest = k - half;
    const VF s1 = (VF)((half + 127) << 23), s2 = (VF)((rest + 127) << 23);
    e = vfma(p, s1, s1) * s2;
    const VF s = s1 * s2;
    em1 = vfma(p, s, s - 1.0f);
}
MCLNF_LANE VF vexp(VF x) {
    VF e, m;
    vexp_both(x, e, m);
    return e;
}
MCLNF_LANE VD vexp(VD x) {
    return vlanes(x, [](double a) { return std::exp(a); });
}

// log(1 + u) for 0 <= u <= 1, as 2 artanh(u / (2 + u)).
MCLNF_LANE VF vlog1p01(VF u) {
    const VF s = u / (u + 2.0f), z = s * s;
    VF p = vset<float>(2.0f / 15);
    p = vfma(p, z, vset<float>(2.0f / 13));
    p = vfma(p, z, vset<float>(2.0f / 11));
    p = vfma(p, z, vset<float>(2.0f / 9));
    p = vfma(p, z, vset<float>(2.0f / 7));
    p = vfma(p, z, vset<float>(2.0f / 5));
    p = vfma(p, z, vset<float>(2.0f / 3));
    return vfma(p * z, s, s + s);
}
MCLNF_LANE VD vlog1p01(VD u) {
    return vlanes(u, [](double a) { return std::log1p(a); });
}

MCLNF_LANE VF vtanh(VF x) {
    const VF a = x < 0.0f ? -x : x;
    VF e, m;
    vexp_both(-2.0f * (a > 20.0f ? vset<float>(20.0f) : a), e, m);
    const VF t = -m / (m + 2.0f);
    return x < 0.0f ? -t : t;
}
MCLNF_LANE VD vtanh(VD x) {
    return vlanes(x, [](double a) { return std::tanh(a); });
}

// Whether any lane of a comparison is true.
MCLNF_LANE bool vany(VI mask) {
#if MCLNF_VBYTES == 64 && defined(MCLNF_EMULATE)
    int any = 0;
    for (int i = 0; i < Simd<float>::width; ++i) any |= mask[i];
    return any != 0;
#elif MCLNF_VBYTES == 64
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif MCLNF_VBYTES == 32
    return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(MCLNF_NEON)
    return vmaxvq_u32((uint32x4_t)mask) != 0;
#else
    return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

// Whether any |x| is beyond a bound; NaN is not.
MCLNF_LANE bool vbeyond(VF x, float bound) {
#if MCLNF_VBYTES == 64 && !defined(MCLNF_EMULATE)
    return _mm512_cmp_ps_mask(_mm512_abs_ps((__m512)x), _mm512_set1_ps(bound), _CMP_GT_OQ) != 0;
#else
    return vany((x > bound) | (x < -bound));
#endif
}

// The same of N vectors.
template <int N>
MCLNF_LANE bool vbeyond(const VF (&x)[N], float bound) {
#if MCLNF_VBYTES == 64 && !defined(MCLNF_EMULATE)
    __m512 largest = (__m512)x[0];  // by absolute value; of a NaN and a number, the number
    for (int i = 1; i < N; ++i) largest = _mm512_range_ps(largest, (__m512)x[i], 0b1011);
    return vbeyond((VF)largest, bound);
#else
    const VI magnitude = VI{} + INT_MAX;
    VI mask = {};
    for (int i = 0; i < N; ++i) mask = mask | ((VF)((VI)x[i] & magnitude) > bound);
    return vany(mask);
#endif
}

// r = x - n pi/2 with |r| <= pi/4, and n. In single precision, with pi/2 in three parts: up to |x| = 2^15 the
// remainder of the first part is exact, so that r keeps its bits even when x is next to a multiple of pi/2.
// N vectors side by side, here and below: a single one mostly waits for its last step.
#define MCLNF_EACH for (int i = 0; i < N; ++i)
static constexpr float kMaxNearAngle = 32768.0f, kMaxFarAngle = 268435456.0f;
template <int N>
MCLNF_LANE void vreduce_near(const VF (&x)[N], VF (&r)[N], VI (&q)[N]) {
    const VF magic = vset<float>(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    VF n[N];
    MCLNF_EACH n[i] = vfma(x[i], vset<float>(0.636619772f), magic);
    MCLNF_EACH q[i] = (VI)n[i];
    MCLNF_EACH n[i] = n[i] - magic;
    MCLNF_EACH r[i] = vfma(n[i], vset<float>(-1.57079637f), x[i]);
    MCLNF_EACH r[i] = vfma(n[i], vset<float>(4.37113883e-8f), r[i]);
    MCLNF_EACH r[i] = vfma(n[i], vset<float>(1.71512449e-15f), r[i]);
}
// In double: a sine network with w0 = 200 and the high octaves of an encoding exceed the range above. n times
// each of the first two parts is exact up to |x| = 2^28.
MCLNF_LANE VF vreduce_far(VF x, VI& q) {
    const VFD xd = __builtin_convertvector(x, VFD);
    const VFD magic = 6755399441055744.0 - VFD{};  // 1.5 * 2^52
    VFD n = xd * 0.63661977236758134308 + magic;
    q = __builtin_convertvector((VFL)n, VI);
    n = n - magic;
    VFD rd = xd - n * 1.570796251296997;
    rd = rd - n * 7.549789771132964e-08;
    rd = rd - n * 1.837589179357618e-15;
    return __builtin_convertvector(rd, VF);
}

// sin and cos of r + q pi/2.
template <int N>
MCLNF_LANE void vsincos_reduced(const VF (&r)[N], const VI (&q)[N], VF (&s)[N], VF (&c)[N]) {
    VF z[N], ps[N], pc[N], low[N];
    MCLNF_EACH z[i] = r[i] * r[i];
    MCLNF_EACH ps[i] = vfma(vset<float>(2.7525562e-6f), z[i], vset<float>(-1.9840874e-4f));
    MCLNF_EACH pc[i] = vfma(vset<float>(2.4433157e-5f), z[i], vset<float>(-1.3887316e-3f));
    MCLNF_EACH ps[i] = vfma(ps[i], z[i], vset<float>(8.3333310e-3f));
    MCLNF_EACH pc[i] = vfma(pc[i], z[i], vset<float>(4.1666646e-2f));
    MCLNF_EACH ps[i] = vfma(ps[i], z[i], vset<float>(-1.6666667e-1f));
    MCLNF_EACH low[i] = vfma(z[i], vset<float>(-0.5f), vset<float>(1.0f));
    MCLNF_EACH ps[i] = vfma(ps[i] * z[i], r[i], r[i]);
    MCLNF_EACH pc[i] = vfma(pc[i] * z[i], z[i], low[i]);
    // Bit 0 of q exchanges sine and cosine; bit 1 of q, and of q + 1, is the sign. All of them in the sign's
    // place, where a blend reads its choice.
    const VI sign = VI{} + INT_MIN;
    MCLNF_EACH {
        const VI low_bit = q[i] << 31, high_bit = q[i] << 30;
        const VF a = low_bit < 0 ? pc[i] : ps[i], b = low_bit < 0 ? ps[i] : pc[i];
        s[i] = (VF)((VI)a ^ (high_bit & sign));
        c[i] = (VF)((VI)b ^ ((high_bit ^ low_bit) & sign));
    }
}
#undef MCLNF_EACH

// sin and cos; beyond |x| = 2^28 the library's. Each lane by its own angle alone: a row must not change its
// bits with its neighbors.
MCLNF_LANE void vsincos(VF x, VF& s, VF& c) {
    VF r[1], sine[1], cosine[1];
    VI q[1];
#if MCLNF_FUSED  // without a fused multiply-add the single-precision reduction is not exact
    vreduce_near({x}, r, q);
    if (__builtin_expect(vbeyond(x, kMaxNearAngle), 0)) {
        VI far_q;
        const VF far_r = vreduce_far(x, far_q);
        const VI far = (x > kMaxNearAngle) | (x < -kMaxNearAngle);
        r[0] = far ? far_r : r[0];
        q[0] = far ? far_q : q[0];
    }
#else
    r[0] = vreduce_far(x, q[0]);
#endif
    vsincos_reduced(r, q, sine, cosine);
    s = sine[0];
    c = cosine[0];
    if (__builtin_expect(vbeyond(x, kMaxFarAngle), 0)) {
        for (int i = 0; i < Simd<float>::width; ++i) {
            if (!(x[i] > kMaxFarAngle || x[i] < -kMaxFarAngle)) continue;
            s[i] = std::sin(x[i]);
            c[i] = std::cos(x[i]);
        }
    }
}
MCLNF_LANE void vsincos(VD x, VD& s, VD& c) {
    s = vlanes(x, [](double a) { return std::sin(a); });
    c = vlanes(x, [](double a) { return std::cos(a); });
}

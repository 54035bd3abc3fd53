// Vectors of one instruction set and the elementary functions over them.
//
// This header is included once per instruction set, inside that set's target
// region and namespace (see bank_avx512.cpp), which is why it has no include
// guard and includes nothing: a function compiled for AVX-512 must never be
// merged by the linker with its twin for an older processor. The including file
// defines MCLNF_VBYTES.

template <class S>
struct Simd;

template <>
struct Simd<float> {
    static constexpr int width = MCLNF_VBYTES / 4;
    typedef float V __attribute__((vector_size(MCLNF_VBYTES), may_alias));
    typedef float Any __attribute__((vector_size(MCLNF_VBYTES), aligned(4), may_alias));
    typedef int I __attribute__((vector_size(MCLNF_VBYTES), may_alias));
};

template <>
struct Simd<double> {
    static constexpr int width = MCLNF_VBYTES / 8;
    typedef double V __attribute__((vector_size(MCLNF_VBYTES), may_alias));
    typedef double Any __attribute__((vector_size(MCLNF_VBYTES), aligned(8), may_alias));
    typedef long long I __attribute__((vector_size(MCLNF_VBYTES), may_alias));
};

template <class S>
using Vec = typename Simd<S>::V;

typedef Vec<float> VF;
typedef Vec<double> VD;
typedef Simd<float>::I VI;
// As many doubles as a vector of floats has lanes: wider than a register, split
// by the compiler.
typedef double VFD __attribute__((vector_size(2 * MCLNF_VBYTES)));
typedef long long VFL __attribute__((vector_size(2 * MCLNF_VBYTES)));

#define MCLNF_LANE static inline __attribute__((always_inline))
#define MCLNF_MEMBER inline __attribute__((always_inline))

#if MCLNF_VBYTES == 64 && defined(MCLNF_EMULATE)
// In halves: the kernels of AVX-512 on a processor that has AVX2 alone (setup.py).
#define MCLNF_LOW(T, x) (T) __builtin_shufflevector(x, x, 0, 1, 2, 3)
#define MCLNF_HIGH(T, x) (T) __builtin_shufflevector(x, x, 4, 5, 6, 7)
MCLNF_LANE VD vjoin(__m256d low, __m256d high) {
    return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
}
MCLNF_LANE VF vfma(VF a, VF b, VF c) {
    const VD x = (VD)a, y = (VD)b, z = (VD)c;
    return (VF)vjoin(
        (__m256d)_mm256_fmadd_ps(MCLNF_LOW(__m256, x), MCLNF_LOW(__m256, y), MCLNF_LOW(__m256, z)),
        (__m256d)_mm256_fmadd_ps(MCLNF_HIGH(__m256, x), MCLNF_HIGH(__m256, y), MCLNF_HIGH(__m256, z)));
}
MCLNF_LANE VD vfma(VD x, VD y, VD z) {
    return vjoin(_mm256_fmadd_pd(MCLNF_LOW(__m256d, x), MCLNF_LOW(__m256d, y), MCLNF_LOW(__m256d, z)),
                 _mm256_fmadd_pd(MCLNF_HIGH(__m256d, x), MCLNF_HIGH(__m256d, y), MCLNF_HIGH(__m256d, z)));
}
#undef MCLNF_LOW
#undef MCLNF_HIGH
#elif MCLNF_VBYTES == 64
MCLNF_LANE VF vfma(VF a, VF b, VF c) { return (VF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
MCLNF_LANE VD vfma(VD a, VD b, VD c) { return (VD)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif MCLNF_VBYTES == 32
MCLNF_LANE VF vfma(VF a, VF b, VF c) { return (VF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
MCLNF_LANE VD vfma(VD a, VD b, VD c) { return (VD)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#else
MCLNF_LANE VF vfma(VF a, VF b, VF c) { return a * b + c; }
MCLNF_LANE VD vfma(VD a, VD b, VD c) { return a * b + c; }
#endif

template <class S>
MCLNF_LANE Vec<S> vset(S x) {
    return x - Vec<S>{};
}
// Any address: what is aligned costs no more this way.
template <class S>
MCLNF_LANE Vec<S> vload(const S* p) {
    return *reinterpret_cast<const typename Simd<S>::Any*>(p);
}
template <class S>
MCLNF_LANE void vstore(S* p, Vec<S> v) {
    *reinterpret_cast<typename Simd<S>::Any*>(p) = v;
}

// Past the caches, for what is not read again soon; p aligned to a vector.
template <class S>
MCLNF_LANE void vstream(S* p, Vec<S> v) {
#if MCLNF_VBYTES == 64 && defined(MCLNF_EMULATE)
    vstore(p, v);
#elif MCLNF_VBYTES == 64
    _mm512_stream_si512((__m512i*)p, (__m512i)v);
#elif MCLNF_VBYTES == 32
    _mm256_stream_si256((__m256i*)p, (__m256i)v);
#else
    vstore(p, v);
#endif
}

// Memory that is read soon, asked for a little at a time during arithmetic: many requests at once wait for
// each other, and the arithmetic for them.
struct Ahead {
    const char* at = nullptr;
    int64_t step = 0;  // bytes a step of the arithmetic; 0: the same line each time, which costs nothing

    Ahead() = default;
    template <class S>
    Ahead(const S* p, int64_t count, int64_t steps)
        : at(reinterpret_cast<const char*>(p)), step((count * (int64_t)sizeof(S) + steps - 1) / steps) {}
};

// Applies a scalar function lane by lane: for double, which only checks of
// derivatives use.
template <class F>
MCLNF_LANE VD vlanes(VD x, F f) {
    for (int i = 0; i < Simd<double>::width; ++i) x[i] = f(x[i]);
    return x;
}

// e^x - 1 and e^x. x = n ln 2 + r, |r| <= ln(2)/2, e^r - 1 by its Taylor series
// (the remainder of degree 8 is below 1e-9 there).
MCLNF_LANE void vexp_both(VF x, VF& e, VF& em1) {
    // Out of range both ends give what IEEE gives: 0 and infinity. NaN passes the
    // comparisons and stays NaN.
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
    // 2^k in two factors, so that results below the normal range and above 2^127
    // come out right.
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
    __m512 most = (__m512)x[0];  // the larger absolute value; of a NaN and a number, the number's
    for (int i = 1; i < N; ++i) most = _mm512_range_ps(most, (__m512)x[i], 0b1011);
    return vbeyond((VF)most, bound);
#else
    VI mask = {};
    for (int i = 0; i < N; ++i) mask = mask | (x[i] > bound) | (x[i] < -bound);
    return vany(mask);
#endif
}

// r = x - n pi/2 with |r| <= pi/4, and n. In single precision, pi/2 in three
// parts: up to |x| = 2^15 what the first leaves is exact, so that r keeps its
// bits even where x is next to a multiple of pi/2. N vectors side by side, here
// and below: one alone mostly waits for its last step.
#define MCLNF_EACH for (int i = 0; i < N; ++i)
static constexpr float kNear = 32768.0f;
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
// In double: a sine network with w0 = 200 and the high octaves of an encoding
// go beyond. n times each of the first two parts is exact up to |x| = 2^28.
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
    const VI sign = VI{} + INT_MIN;
    MCLNF_EACH {
        const VI odd = (q[i] & 1) != 0;
        const VF a = odd ? pc[i] : ps[i], b = odd ? ps[i] : pc[i];
        // Bit 1 of q, and of q + 1, is the sign.
        s[i] = (VF)((VI)a ^ ((q[i] << 30) & sign));
        c[i] = (VF)((VI)b ^ (((q[i] + 1) << 30) & sign));
    }
}
#undef MCLNF_EACH

// sin and cos; beyond |x| = 2^28 the library's.
MCLNF_LANE void vsincos(VF x, VF& s, VF& c) {
    VF r[1], sine[1], cosine[1];
    VI q[1];
#if MCLNF_VBYTES >= 32  // without a fused multiply-add the single-precision
                        // reduction is not exact
    if (__builtin_expect(!vbeyond(x, kNear), 1)) {
        vreduce_near({x}, r, q);
    } else
#endif
    {
        if (vbeyond(x, 268435456.0f)) {
            for (int i = 0; i < Simd<float>::width; ++i) {
                s[i] = std::sin(x[i]);
                c[i] = std::cos(x[i]);
            }
            return;
        }
        r[0] = vreduce_far(x, q[0]);
    }
    vsincos_reduced(r, q, sine, cosine);
    s = sine[0];
    c = cosine[0];
}
MCLNF_LANE void vsincos(VD x, VD& s, VD& c) {
    s = vlanes(x, [](double a) { return std::sin(a); });
    c = vlanes(x, [](double a) { return std::cos(a); });
}

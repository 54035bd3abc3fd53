// Vectors of one instruction set: types, loads and stores, the fused multiply-add, prefetching.
//
// This header is included once per instruction set, inside that set's target
// region and namespace (see bank_avx512.cpp), which is why it has no include
// guard and includes nothing: a function compiled for AVX-512 must never be
// merged by the linker with its twin for an older processor. The including file
// defines MCLNF_VBYTES, and MCLNF_NEON for that instruction set.

// Whether a multiply-add rounds once, and how many vectors the registers hold.
#if MCLNF_VBYTES >= 32 || defined(MCLNF_NEON)
#define MCLNF_FUSED 1
#else
#define MCLNF_FUSED 0
#endif
#if MCLNF_VBYTES == 64 || defined(MCLNF_NEON)
#define MCLNF_REGISTERS 32
#else
#define MCLNF_REGISTERS 16
#endif

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

// Before a loop over an array that should stay in registers. GCC unrolls some of them too late by itself: of
// 24 accumulators each then has its place in memory, read and written at every multiply-add.
#ifdef __clang__
#define MCLNF_IN_REGISTERS
#else
#define MCLNF_IN_REGISTERS _Pragma("GCC unroll 16")
#endif

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
#elif defined(MCLNF_NEON)
MCLNF_LANE VF vfma(VF a, VF b, VF c) { return (VF)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
MCLNF_LANE VD vfma(VD a, VD b, VD c) { return (VD)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
#else
MCLNF_LANE VF vfma(VF a, VF b, VF c) { return a * b + c; }
MCLNF_LANE VD vfma(VD a, VD b, VD c) { return a * b + c; }
#endif

template <class S>
MCLNF_LANE Vec<S> vset(S x) {
    return x - Vec<S>{};
}
// Any address: on an aligned one, the unaligned instruction costs no more.
template <class S>
MCLNF_LANE Vec<S> vload(const S* p) {
    return *reinterpret_cast<const typename Simd<S>::Any*>(p);
}
template <class S>
MCLNF_LANE void vstore(S* p, Vec<S> v) {
    *reinterpret_cast<typename Simd<S>::Any*>(p) = v;
}

// Past the caches, for values that are not read again soon: through them, each store would first read its
// line from memory. p is aligned to a vector.
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

// A prefetch of memory that is read soon, spread over the steps of an arithmetic loop: issued all at once,
// the requests would fill the load queue, and the arithmetic would wait behind them.
struct Prefetch {
    const char* next = nullptr;
    int64_t step = 0;  // bytes per step of the arithmetic; 0: the same line each time, which costs nothing

    Prefetch() = default;
    template <class S>
    Prefetch(const S* values, int64_t count, int64_t steps)
        : next(reinterpret_cast<const char*>(values)),
          step((count * (int64_t)sizeof(S) + steps - 1) / steps) {}
};

// What every inline function of this folder needs: the host-device marker and float exponentials that
// vectorise.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define MCLNF_HD __host__ __device__
#else
#define MCLNF_HD
#endif

// A CPU kernel is cloned for several instruction sets (csrc/cpu/rays.h); what it calls takes part in that
// only where it is inlined into the clone.
#if defined(__CUDACC__)
#define MCLNF_INLINE __forceinline__
#elif defined(__GNUC__)
#define MCLNF_INLINE inline __attribute__((always_inline))
#else
#define MCLNF_INLINE inline
#endif

namespace mclnf {

// The two exponentials share the reduction x = n ln 2 + r, |r| <= ln(2) / 2, and the Taylor polynomial of e^r
// - 1 (its first omitted term is below 2^-26 of the result). No branches and no library call, so that loops
// over them vectorise; the same bits on every device that does not contract multiplications and additions.
struct ReducedExp {
    float scale;  // 2^n
    float rest;   // e^r - 1
};

MCLNF_HD MCLNF_INLINE ReducedExp reduce_exp(float x) {
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
    const float shifted = x * 1.44269504f + shift;
    const float n = shifted - shift;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23;
    ReducedExp found;
    memcpy(&found.scale, &bits, sizeof bits);
    found.rest = p * (r * r) + r;
    return found;
}

// e^x; 0 below the smallest normal number, infinity above the largest. NaN stays NaN.
MCLNF_HD MCLNF_INLINE float exp_of(float x) {
    const ReducedExp e = reduce_exp(x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x));
    const float value = e.scale * e.rest + e.scale;
    return x < -87.0f ? 0.0f : (x > 88.0f ? INFINITY : value);
}

// e^x - 1 without cancellation near 0.
MCLNF_HD MCLNF_INLINE float expm1_of(float x) {
    const ReducedExp e = reduce_exp(x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x));
    const float value = e.scale * e.rest + (e.scale - 1.0f);
    return x > 88.0f ? INFINITY : value;
}

MCLNF_HD MCLNF_INLINE double exp_of(double x) { return exp(x); }
MCLNF_HD MCLNF_INLINE double expm1_of(double x) { return expm1(x); }

}  // namespace mclnf

// Exponentials of lanes (lanes.h): no branches and no library call in float, the same bits on every device
// that does not contract multiplications and additions.
#pragma once

#include "lanes.h"

namespace mclnf {

// 2^n of n + 1.5 * 2^23, which holds the integer n in its low bits.
MCLNF_HD MCLNF_INLINE float power_of_two(float shifted) {
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23;
    memcpy(&shifted, &bits, sizeof bits);
    return shifted;
}
#ifdef MCLNF_WIDE
MCLNF_INLINE Float8 power_of_two(Float8 shifted) { return (Float8)(((Int8)shifted + 127) << 23); }
#endif

// The two exponentials share the reduction x = n ln 2 + r, |r| <= ln(2) / 2, and the Taylor polynomial of e^r
// - 1 (its first omitted term is below 2^-26 of the result).
template <typename V>
struct ReducedExp {
    V scale;  // 2^n
    V rest;   // e^r - 1
};

template <typename V>
MCLNF_HD MCLNF_INLINE ReducedExp<V> reduce_exp(V x) {
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const V shifted = x * 1.44269504f + shift;
    const V n = shifted - shift;
    const V r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    V p = r * 1.98412698e-4f + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    return {power_of_two(shifted), p * (r * r) + r};
}

// e^x; 0 below the smallest normal number, infinity above the largest. NaN stays NaN.
template <typename V>
MCLNF_HD MCLNF_INLINE V exp_of(V x) {
    const V low = filled<V>(-87.0f), high = filled<V>(88.0f);
    const ReducedExp<V> e = reduce_exp<V>(x < low ? low : (x > high ? high : x));
    const V value = e.scale * e.rest + e.scale;
    return x < low ? V{} : (x > high ? filled<V>(INFINITY) : value);
}

// e^x - 1 without cancellation near 0.
template <typename V>
MCLNF_HD MCLNF_INLINE V expm1_of(V x) {
    const V low = filled<V>(-87.0f), high = filled<V>(88.0f);
    const ReducedExp<V> e = reduce_exp<V>(x < low ? low : (x > high ? high : x));
    const V value = e.scale * e.rest + (e.scale - 1.0f);
    return x > high ? filled<V>(INFINITY) : value;
}

MCLNF_HD MCLNF_INLINE double exp_of(double x) { return exp(x); }
MCLNF_HD MCLNF_INLINE double expm1_of(double x) { return expm1(x); }

}  // namespace mclnf

// Sums of a table's gradient that do not depend on the order in which they are added up: every addend is
// multiplied by a power of two and rounded to an integer.
//
// Of a module with n points, let L bound sum_c |w_c| |g_f| of every point and feature (g = dL/dy), or
// sum_c |q_c| |g_f| where the addends are q_c g_f: `grid_sum_factor` times the largest |g_f|, or |g_f| sum_a
// |v_a|. With 2 n < 2^b and L < 2^s, the factor 2^(61 - b - s) keeps every sum, roundings included, below
// 2^62 in absolute value. An addend's error is at most half a unit, 2^(b + s - 62) <= 2^-59 n L: with a
// million points 2^-39 of the largest gradient. That is float's own precision for addends down to 2^-15 of
// the largest, and less for smaller ones; addends below 2^-39 of it add nothing. Of double, the remainder of
// rounding goes into a second word, which brings as many bits again: 2^-77 of the largest.
#pragma once

#include <algorithm>

#include "grid.h"

namespace mclnf {

// Integers per number.
template <typename T>
inline constexpr int kGridSumWords = 1;
template <>
inline constexpr int kGridSumWords<double> = 2;

MCLNF_HD MCLNF_INLINE uint64_t bits_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
MCLNF_HD MCLNF_INLINE double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
// 2^k for -1022 <= k <= 1023.
MCLNF_HD MCLNF_INLINE double power_of_two(int k) { return double_of(static_cast<uint64_t>(k + 1023) << 52); }
// The least k with x < 2^k, of a number that is not negative; -1021 for those below 2^-1021.
MCLNF_HD MCLNF_INLINE int size_of(double x) {
    const int exponent = static_cast<int>(bits_of(x) >> 52);
    return (exponent > 1 ? exponent : 1) - 1022;
}

// Whether a number is NaN or infinite; by its bits, whatever the compiler assumes.
MCLNF_HD MCLNF_INLINE bool beyond(double x) { return (bits_of(x) >> 52 & 0x7ff) == 0x7ff; }

// How a module's addends on a level are rounded; nothing is known of them if L is not finite.
struct GridSum {
    double up, down;            // 2^k and its inverse
    double rest_up, rest_down;  // of the second word
    bool known;
};

// The factor by which the largest |g_f| (or |g_f| sum_a |v_a|) becomes L on a level. A share of 0 ... 1 per
// corner of an axis gives 1; the last cell may end beyond its last node if T rounds the box or the scale.
template <typename T>
inline double grid_sum_factor(const GridMap<T>& map, const GridLevel& level, bool tangents) {
    const T scale = static_cast<T>(level.scale);
    const double t =
        map.half_cell ? 1.0
                      : static_cast<double>((map.high - map.low) * scale - static_cast<T>(level.cells - 1));
    const bool smooth = map.interpolation == kGridSmoothstep;
    const double share = smooth ? t * t * (3 - 2 * t) : t;
    const double whole = std::max(1.0, std::abs(share) + std::abs(1 - share));
    double factor = 1;
    for (int a = 0; a < map.axes; ++a) factor *= whole;
    if (!tangents) return factor;
    const double derivative = smooth ? std::max(1.5, std::abs(6 * t * (1 - t))) : 1.0;
    return 2 * factor * derivative * static_cast<double>(scale);
}

MCLNF_HD MCLNF_INLINE GridSum grid_sum(double bound, int64_t points) {
    const int bits = size_of(2.0 * static_cast<double>(points));
    const int k = 61 - bits - size_of(bound), max_k = 1000;  // 2^k is a double
    const int used = k < max_k ? k : max_k;
    return {power_of_two(used), power_of_two(-used), power_of_two(60 - bits), power_of_two(bits - 60),
            !beyond(bound)};
}

// An addend as integers.
template <typename T>
MCLNF_HD MCLNF_INLINE void grid_sum_split(const GridSum& sum, T addend, int64_t* words) {
    const double scaled = static_cast<double>(addend) * sum.up;
    words[0] = llrint(scaled);
    // Exact: a number of 2^53 and more is an integer itself.
    if constexpr (kGridSumWords<T> == 2)
        words[1] = llrint((scaled - static_cast<double>(words[0])) * sum.rest_up);
}

// The sum that the integers' sums stand for.
template <typename T>
MCLNF_HD MCLNF_INLINE T grid_sum_value(const GridSum& sum, const int64_t* words) {
    double value = static_cast<double>(words[0]);
    if constexpr (kGridSumWords<T> == 2) value += static_cast<double>(words[1]) * sum.rest_down;
    return static_cast<T>(value * sum.down);
}

}  // namespace mclnf

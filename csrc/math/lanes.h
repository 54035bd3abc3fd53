// Several consecutive samples of a ray side by side: one type V stands for a float, a double, eight floats or
// the 32 numbers of a warp (warp_lanes.h), so that an algorithm is written once for the CPU and for the GPU,
// with one thread or one warp per ray.
//
// Eight floats on every instruction set, so that sums are added in one order and all give the same bits.
#pragma once

#include "common.h"

namespace mclnf {

// One thread works on a ray and holds all lanes of V.
struct OneThread {
    static constexpr int kThreads = 1;
    static MCLNF_HD MCLNF_INLINE int thread() { return 0; }
};

template <typename V>
struct Lanes : OneThread {
    using Scalar = V;
    static constexpr int kCount = 1;
};

// Whether this thread writes the values that there are once per ray.
template <typename V>
MCLNF_HD MCLNF_INLINE bool leads() {
    return Lanes<V>::thread() == 0;
}

// p[begin ... end) = 0, by all threads of the ray.
template <typename V>
MCLNF_HD MCLNF_INLINE void clear(typename Lanes<V>::Scalar* p, int64_t begin, int64_t end) {
    for (int64_t i = begin + Lanes<V>::thread(); i < end; i += Lanes<V>::kThreads) p[i] = 0;
}

// How much of a group of kCount samples belongs to the ray: the first m of them. The memory of the others can
// be read (`roomy`) and written (`open`: whatever is there is yet to be computed).
struct Part {
    int m;
    bool roomy, open;
};

template <typename V>
MCLNF_HD MCLNF_INLINE V filled(typename Lanes<V>::Scalar x) {
    return V{} + x;
}

template <bool kWhole, typename T>
MCLNF_HD MCLNF_INLINE void store_lanes(T* p, T v, Part) {
    *p = v;
}
template <bool kWhole, typename T>
MCLNF_HD MCLNF_INLINE T only_part(T v, Part) {
    return v;
}
template <typename T>
MCLNF_HD MCLNF_INLINE T sum_lanes(T v) {
    return v;
}
// The sums over the lanes before each (after each); `total` becomes the sum of all, in every lane.
template <typename T>
MCLNF_HD MCLNF_INLINE T sums_before(T v, T& total) {
    total = v;
    return T(0);
}
template <typename T>
MCLNF_HD MCLNF_INLINE T sums_after(T v, T& total) {
    total = v;
    return T(0);
}
// Each lane's successor; that of the last lane is the first of `next`.
template <typename T>
MCLNF_HD MCLNF_INLINE T successors(T, T next) {
    return next;
}
// How many of the first m lanes precede the first that is below `bound`.
template <typename T>
MCLNF_HD MCLNF_INLINE int lanes_until_below(T v, T bound, int m) {
    return v < bound ? 0 : m;
}
// 0 in the lanes whose `v` is infinite, `a` in the others; NaN is not infinite.
template <typename T>
MCLNF_HD MCLNF_INLINE T unless_endless(T v, T a) {
    return v == T(INFINITY) || v == T(-INFINITY) ? T(0) : a;
}
// `a` in the lanes whose `v` is 0, `b` in the others.
template <typename T>
MCLNF_HD MCLNF_INLINE T where_zero(T v, T a, T b) {
    return v == T(0) ? a : b;
}

#if defined(__GNUC__) && !defined(__CUDACC__)
#define MCLNF_WIDE 1
typedef float Float8 __attribute__((vector_size(32)));
typedef int32_t Int8 __attribute__((vector_size(32)));

#if defined(__clang__)
#define MCLNF_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MCLNF_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Int8{__VA_ARGS__})
#endif

template <>
struct Lanes<Float8> : OneThread {
    using Scalar = float;
    static constexpr int kCount = 8;
};

// m < 8 floats, in pieces of a power of two.
MCLNF_INLINE void copy_floats(float* to, const float* from, int m) {
    if (m & 4) {
        memcpy(to, from, 16);
        to += 4;
        from += 4;
    }
    if (m & 2) {
        memcpy(to, from, 8);
        to += 2;
        from += 2;
    }
    if (m & 1) *to = *from;
}

template <bool kWhole>
MCLNF_INLINE Float8 only_part(Float8 v, Part part) {
    if (kWhole) return v;
    return Int8{0, 1, 2, 3, 4, 5, 6, 7} < Int8{} + part.m ? v : Float8{};
}
template <bool kWhole>
MCLNF_INLINE void store_lanes(float* p, Float8 v, Part part) {
    if (kWhole || part.open) {
        memcpy(p, &v, sizeof v);
    } else {
        float room[8];
        memcpy(room, &v, sizeof v);
        copy_floats(p, room, part.m);
    }
}
MCLNF_INLINE float sum_lanes(Float8 v) {
    v += MCLNF_SHUFFLE(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    v += MCLNF_SHUFFLE(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    v += MCLNF_SHUFFLE(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
    return v[0];
}
// Sums within the halves, then the lower half's total on top of the upper: shifts that cross the halves take
// three times as long. Nothing is subtracted, so that an infinite lane leaves those before it finite.
MCLNF_INLINE Float8 sums_before(Float8 v, Float8& total) {
    const Float8 zero{};
    v += MCLNF_SHUFFLE(v, zero, 8, 0, 1, 2, 12, 4, 5, 6);
    v += MCLNF_SHUFFLE(v, zero, 8, 9, 0, 1, 12, 13, 4, 5);
    const Float8 halves = MCLNF_SHUFFLE(v, v, 3, 3, 3, 3, 7, 7, 7, 7);
    const Float8 before = MCLNF_SHUFFLE(v, zero, 8, 0, 1, 2, 12, 4, 5, 6);
    const Float8 low = MCLNF_SHUFFLE(halves, zero, 8, 9, 10, 11, 0, 1, 2, 3);
    total = halves + MCLNF_SHUFFLE(halves, halves, 4, 5, 6, 7, 0, 1, 2, 3);
    return before + low;
}
MCLNF_INLINE Float8 sums_after(Float8 v, Float8& total) {
    const Float8 zero{};
    v += MCLNF_SHUFFLE(v, zero, 1, 2, 3, 11, 5, 6, 7, 15);
    v += MCLNF_SHUFFLE(v, zero, 2, 3, 10, 11, 6, 7, 14, 15);
    const Float8 halves = MCLNF_SHUFFLE(v, v, 0, 0, 0, 0, 4, 4, 4, 4);
    const Float8 after = MCLNF_SHUFFLE(v, zero, 1, 2, 3, 11, 5, 6, 7, 15);
    const Float8 high = MCLNF_SHUFFLE(halves, zero, 4, 5, 6, 7, 12, 13, 14, 15);
    total = halves + MCLNF_SHUFFLE(halves, halves, 4, 5, 6, 7, 0, 1, 2, 3);
    return after + high;
}
MCLNF_INLINE Float8 successors(Float8 v, Float8 next) {
    return MCLNF_SHUFFLE(v, next, 1, 2, 3, 4, 5, 6, 7, 8);
}
MCLNF_INLINE Float8 unless_endless(Float8 v, Float8 a) {
    const Float8 endless = filled<Float8>(INFINITY);
    return ((v == endless) | (v == -endless)) ? Float8{} : a;
}
MCLNF_INLINE Float8 where_zero(Float8 v, Float8 a, Float8 b) { return v == Float8{} ? a : b; }
MCLNF_INLINE int lanes_until_below(Float8 v, float bound, int m) {
    const Int8 below = v < filled<Float8>(bound);
    int64_t pairs[4];
    memcpy(pairs, &below, sizeof pairs);
    if (!(pairs[0] | pairs[1] | pairs[2] | pairs[3])) return m;
    for (int j = 0; j < m; ++j) {
        if (below[j]) return j;
    }
    return m;
}
#endif

// kWhole: all lanes are the ray's. Otherwise the lanes from part.m on are 0, whatever is in memory.
template <typename V, bool kWhole>
MCLNF_HD MCLNF_INLINE V load_lanes(const typename Lanes<V>::Scalar* p, Part part) {
    if constexpr (Lanes<V>::kThreads > 1) {
        return V::template load<kWhole>(p, part.m);
    } else {
        V v{};
        if (Lanes<V>::kCount == 1 || kWhole || part.roomy) {
            memcpy(&v, p, sizeof v);
        } else {
            typename Lanes<V>::Scalar room[Lanes<V>::kCount] = {};
            for (int j = 0; j < part.m; ++j) room[j] = p[j];
            memcpy(&v, room, sizeof v);
        }
        return only_part<kWhole>(v, part);
    }
}

}  // namespace mclnf

// The 32 samples that the threads of a warp hold side by side, one each: a V of lanes.h with one warp per
// ray. For csrc/cuda; all 32 threads make every call. Sums are added in a fixed order, that of the lanes'
// distances, so that two runs give the same bits.
#pragma once

#include "composite_channels.h"
#include "exponential.h"

// nvcc compiles these functions for the host too, for which nobody calls them and there are no shuffles.
#if defined(__CUDACC__) && !defined(__CUDA_ARCH__)
#define MCLNF_IN_WARP(call, otherwise) (otherwise)
#else
#define MCLNF_IN_WARP(call, otherwise) (call)
#endif

namespace mclnf {

constexpr unsigned kWarp = 0xffffffffu;

MCLNF_HD MCLNF_INLINE int lane_of_warp() { return MCLNF_IN_WARP(static_cast<int>(threadIdx.x & 31u), 0); }

template <typename T>
struct WarpLane {
    T x;

    template <bool kWhole>
    static MCLNF_HD MCLNF_INLINE WarpLane load(const T* p, int m) {
        const int lane = lane_of_warp();
        return {kWhole || lane < m ? p[lane] : T(0)};
    }
    friend MCLNF_HD MCLNF_INLINE WarpLane operator+(WarpLane a, WarpLane b) { return {a.x + b.x}; }
    friend MCLNF_HD MCLNF_INLINE WarpLane operator-(WarpLane a, WarpLane b) { return {a.x - b.x}; }
    friend MCLNF_HD MCLNF_INLINE WarpLane operator*(WarpLane a, WarpLane b) { return {a.x * b.x}; }
    friend MCLNF_HD MCLNF_INLINE WarpLane operator+(WarpLane a, T b) { return {a.x + b}; }
    friend MCLNF_HD MCLNF_INLINE WarpLane operator*(WarpLane a, T b) { return {a.x * b}; }
    friend MCLNF_HD MCLNF_INLINE WarpLane operator-(WarpLane a) { return {-a.x}; }
    MCLNF_HD MCLNF_INLINE WarpLane& operator+=(WarpLane b) {
        x += b.x;
        return *this;
    }
};

template <typename T>
struct Lanes<WarpLane<T>> {
    using Scalar = T;
    static constexpr int kCount = 32, kThreads = 32;
    static MCLNF_HD MCLNF_INLINE int thread() { return lane_of_warp(); }
};

template <typename T>
MCLNF_HD MCLNF_INLINE WarpLane<T> exp_of(WarpLane<T> v) {
    return {exp_of(v.x)};
}
template <typename T>
MCLNF_HD MCLNF_INLINE WarpLane<T> expm1_of(WarpLane<T> v) {
    return {expm1_of(v.x)};
}

template <bool kWhole, typename T>
MCLNF_HD MCLNF_INLINE void store_lanes(T* p, WarpLane<T> v, Part part) {
    const int lane = lane_of_warp();
    if (kWhole || lane < part.m) p[lane] = v.x;
}
template <bool kWhole, typename T>
MCLNF_HD MCLNF_INLINE WarpLane<T> only_part(WarpLane<T> v, Part part) {
    return {kWhole || lane_of_warp() < part.m ? v.x : T(0)};
}
template <typename T>
MCLNF_HD MCLNF_INLINE T sum_lanes(WarpLane<T> v) {
    for (int by = 16; by > 0; by /= 2) v.x += MCLNF_IN_WARP(__shfl_xor_sync(kWarp, v.x, by), v.x);
    return v.x;
}
// Nothing is subtracted, so that an infinite lane leaves those before it finite.
template <typename T>
MCLNF_HD MCLNF_INLINE WarpLane<T> sums_before(WarpLane<T> v, WarpLane<T>& total) {
    const int lane = lane_of_warp();
    for (int by = 1; by < 32; by *= 2) {
        const T other = MCLNF_IN_WARP(__shfl_up_sync(kWarp, v.x, by), v.x);
        v.x += lane >= by ? other : T(0);
    }
    total.x = MCLNF_IN_WARP(__shfl_sync(kWarp, v.x, 31), v.x);
    const T before = MCLNF_IN_WARP(__shfl_up_sync(kWarp, v.x, 1), v.x);
    return {lane > 0 ? before : T(0)};
}
template <typename T>
MCLNF_HD MCLNF_INLINE WarpLane<T> sums_after(WarpLane<T> v, WarpLane<T>& total) {
    const int lane = lane_of_warp();
    for (int by = 1; by < 32; by *= 2) {
        const T other = MCLNF_IN_WARP(__shfl_down_sync(kWarp, v.x, by), v.x);
        v.x += lane + by < 32 ? other : T(0);
    }
    total.x = MCLNF_IN_WARP(__shfl_sync(kWarp, v.x, 0), v.x);
    const T after = MCLNF_IN_WARP(__shfl_down_sync(kWarp, v.x, 1), v.x);
    return {lane < 31 ? after : T(0)};
}
template <typename T>
MCLNF_HD MCLNF_INLINE WarpLane<T> successors(WarpLane<T> v, WarpLane<T> next) {
    const T inside = MCLNF_IN_WARP(__shfl_down_sync(kWarp, v.x, 1), v.x);
    const T first = MCLNF_IN_WARP(__shfl_sync(kWarp, next.x, 0), next.x);
    return {lane_of_warp() < 31 ? inside : first};
}
template <typename T>
MCLNF_HD MCLNF_INLINE WarpLane<T> unless_endless(WarpLane<T> v, WarpLane<T> a) {
    return {unless_endless(v.x, a.x)};
}
template <typename T>
MCLNF_HD MCLNF_INLINE WarpLane<T> where_zero(WarpLane<T> v, WarpLane<T> a, WarpLane<T> b) {
    return {where_zero(v.x, a.x, b.x)};
}
template <typename T>
MCLNF_HD MCLNF_INLINE int lanes_until_below(WarpLane<T> v, T bound, int m) {
    const bool below = lane_of_warp() < m && v.x < bound;
    const unsigned lanes = MCLNF_IN_WARP(__ballot_sync(kWarp, below), below);
    return lanes ? MCLNF_IN_WARP(__ffs(static_cast<int>(lanes)) - 1, m) : m;
}

// A thread has the C numbers of its sample.
template <int kC, typename T>
struct OneColor<kC, WarpLane<T>> : OneColor<kC, T> {
    using V = WarpLane<T>;
    using One = OneColor<kC, T>;
    using One::One;

    MCLNF_HD MCLNF_INLINE int64_t row() const {
        return static_cast<int64_t>(lane_of_warp()) * (kC > 0 ? kC : One::count);
    }
    template <bool kWhole>
    MCLNF_HD MCLNF_INLINE V times(const T* colors, Part part) const {
        if (!kWhole && lane_of_warp() >= part.m) return {T(0)};
        return {One::template times<true>(colors + row(), part)};
    }
    template <bool kWhole>
    MCLNF_HD MCLNF_INLINE void scaled(V w, T* out, Part part) const {
        if (kWhole || lane_of_warp() < part.m) One::template scaled<true>(w.x, out + row(), part);
    }
};

// If C is known, a thread sums over its own samples and the warp at the end; else the warp over each group,
// into memory that the first thread alone reads and writes: registers can't be indexed by an unknown number.
template <int kC, typename T>
struct ColorSum<kC, WarpLane<T>> {
    T local[kC > 0 ? kC : 1] = {};
    T* out;
    int count;

    MCLNF_HD MCLNF_INLINE ColorSum(T* place, int channels) : out(place), count(channels) {
        for (int c = 0; kC == 0 && lane_of_warp() == 0 && c < channels; ++c) out[c] = 0;
    }
    template <bool kWhole>
    MCLNF_HD MCLNF_INLINE void add(WarpLane<T> w, const T* colors, Part part) {
        const int channels = kC > 0 ? kC : count, lane = lane_of_warp();
        const T* color = colors + static_cast<int64_t>(lane) * channels;
        const bool mine = kWhole || lane < part.m;
        for (int c = 0; c < channels; ++c) {
            const T term = mine ? w.x * color[c] : T(0);
            if (kC > 0) {
                local[kC > 0 ? c : 0] += term;
            } else {
                const T sum = sum_lanes(WarpLane<T>{term});
                if (lane == 0) out[c] += sum;
            }
        }
    }
    MCLNF_HD MCLNF_INLINE void finish() {
        for (int c = 0; c < kC; ++c) {
            const T sum = sum_lanes(WarpLane<T>{local[kC > 0 ? c : 0]});
            if (lane_of_warp() == 0) out[c] = sum;
        }
    }
};

}  // namespace mclnf

// Marching one ray through a box of occupied cells. Shared by csrc/cpu and csrc/cuda.
//
// The arithmetic is written in the order of mclnf_fast/ops/march/reference.py, operation by operation, so
// that without contraction of multiplications and additions both give the same bits, and so the same samples.
#pragma once

#include "common.h"

namespace mclnf {

// Finalizer of 32 bits (xor-shift and multiply, twice): the counter-based random numbers of stratified bins.
MCLNF_HD MCLNF_INLINE uint32_t mix_bits(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

// The part of the hash that all edges of a ray share.
MCLNF_HD MCLNF_INLINE uint32_t ray_hash(int64_t seed, int64_t ray) {
    const uint64_t s = static_cast<uint64_t>(seed), r = static_cast<uint64_t>(ray);
    uint32_t h = mix_bits(static_cast<uint32_t>(s) + 0x9e3779b9u);
    h = mix_bits(h ^ static_cast<uint32_t>(s >> 32));
    h = mix_bits(h ^ static_cast<uint32_t>(r));
    return mix_bits(h ^ static_cast<uint32_t>(r >> 32));
}

// A number of [-1/2, 1/2) in steps of 2^-24: exact in float and in double.
template <typename T>
MCLNF_HD MCLNF_INLINE T edge_jitter(uint32_t hash, int32_t edge) {
    const uint32_t bits = mix_bits(hash ^ static_cast<uint32_t>(edge)) >> 8;
    return static_cast<T>(static_cast<int32_t>(bits)) * T(5.9604644775390625e-8) - T(0.5);
}

template <typename T>
MCLNF_HD MCLNF_INLINE bool is_finite(T x) {
    return x - x == T(0);
}

constexpr int64_t kMaxBins = int64_t(1) << 24;  // bin numbers are exact in float up to here

template <typename T>
struct March {
    const T *origins, *directions;  // [R, 3]
    const T* aabb;                  // [2, 3]
    const T *near, *far;            // [R] or null: the values
    T near_value, far_value;
    const bool* cells;     // [L, X, Y, Z] or null
    const float* density;  // likewise; both null: all occupied
    int32_t levels, size[3];
    int32_t bins;  // 0: steps
    T step;
    bool stratified;
    int64_t seed;
    double max_depth;  // a ray ends where its optical depth exceeds this; infinite: never
};

// One ray's part of the box, cut into bins.
template <typename T>
struct MarchedRay {
    T origin[3], direction[3], center[3], inverse_half[3];
    T enter, exit, width;
    uint32_t hash;
    int64_t bins;  // 0: misses
};

// The interval of ray r in the box of the coarsest level, by the slabs of the three axes.
template <typename T>
MCLNF_HD MCLNF_INLINE MarchedRay<T> march_begin(const March<T>& in, int64_t r) {
    MarchedRay<T> ray;
    const T stretch = static_cast<T>(int64_t(1) << (in.levels - 1));
    T enter = in.near ? in.near[r] : in.near_value, exit = in.far ? in.far[r] : in.far_value;
    bool hit = false, inside = true;
    for (int axis = 0; axis < 3; ++axis) {
        const T o = in.origins[3 * r + axis], d = in.directions[3 * r + axis];
        const T low = in.aabb[axis], high = in.aabb[3 + axis];
        const T center = T(0.5) * (low + high), half = T(0.5) * (high - low);
        ray.origin[axis] = o;
        ray.direction[axis] = d;
        ray.center[axis] = center;
        ray.inverse_half[axis] = T(1) / half;
        const T from = center - half * stretch, to = center + half * stretch;
        if (d != T(0)) {
            const T a = (from - o) / d, b = (to - o) / d;
            const T first = a < b ? a : b, second = a < b ? b : a;
            enter = first > enter ? first : enter;
            exit = second < exit ? second : exit;
            hit = true;
        } else {
            inside = inside && from <= o && o <= to;
        }
        inside = inside && is_finite(o) && is_finite(d);
    }
    ray.enter = enter;
    ray.exit = exit;
    ray.bins = 0;
    ray.width = 0;
    ray.hash = in.stratified ? ray_hash(in.seed, r) : 0u;
    if (!(hit && inside && exit > enter && is_finite(enter) && is_finite(exit))) return ray;
    if (in.bins > 0) {
        ray.bins = in.bins;
        ray.width = (exit - enter) / static_cast<T>(in.bins);
    } else {
        const T steps = ceil((exit - enter) / in.step);
        ray.bins = steps < T(1) ? 1 : (steps > T(kMaxBins) ? kMaxBins + 1 : static_cast<int64_t>(steps));
        ray.width = in.step;
    }
    return ray;
}

// Edge k of 0 ... bins. Interior edges may be jittered by up to half a bin to either side (half of the last
// bin if that one is shorter), so that the bins still tile the interval and t goes up.
template <typename T>
MCLNF_HD MCLNF_INLINE T march_edge(const MarchedRay<T>& ray, bool stratified, int32_t k) {
    T edge = ray.enter + static_cast<T>(k) * ray.width;
    edge = edge < ray.exit ? edge : ray.exit;
    if (stratified) {
        const T rest = ray.exit - edge, reach = rest < ray.width ? rest : ray.width;
        edge = edge + edge_jitter<T>(ray.hash, k) * reach;
        edge = edge < ray.exit ? edge : ray.exit;
    }
    return k == 0 ? ray.enter : (k == ray.bins ? ray.exit : edge);
}

// The cell, among all levels' cells, of the point at t: the finest level that contains the point.
template <bool kOneLevel, typename T>
MCLNF_HD MCLNF_INLINE int32_t march_cell(const March<T>& in, const MarchedRay<T>& ray, T t) {
    T u[3], largest = 0;
    for (int axis = 0; axis < 3; ++axis) {
        u[axis] = ((ray.origin[axis] + ray.direction[axis] * t) - ray.center[axis]) * ray.inverse_half[axis];
        const T size = u[axis] < T(0) ? -u[axis] : u[axis];
        largest = size > largest ? size : largest;
    }
    int32_t level = 0;
    T bound = 1, shrink = 1;
    for (int32_t l = 1; !kOneLevel && l < in.levels; ++l) {
        const bool outside = largest > bound;
        level = outside ? l : level;
        bound = bound * T(2);
        shrink = outside ? shrink * T(0.5) : shrink;
    }
    int32_t cell = level;
    for (int axis = 0; axis < 3; ++axis) {
        T x = ((u[axis] * shrink + T(1)) * T(0.5)) * static_cast<T>(in.size[axis]);
        const T last = static_cast<T>(in.size[axis] - 1);
        x = x > T(0) ? x : T(0);  // NaN too
        x = x < last ? x : last;
        cell = cell * in.size[axis] + static_cast<int32_t>(x);
    }
    return cell;
}

// Edges k0 ... k0 + m, into m + 1 places. The loops vectorize, hence one for each case; the GPU asks for one
// edge at a time.
template <typename T>
MCLNF_HD MCLNF_INLINE void march_edges(const March<T>& in, const MarchedRay<T>& ray, int32_t k0, int m,
                                       T* edges) {
    if (in.stratified) {
        for (int j = 0; j <= m; ++j) edges[j] = march_edge(ray, true, k0 + j);
    } else {
        for (int j = 0; j <= m; ++j) edges[j] = march_edge(ray, false, k0 + j);
    }
}

// Which of the m <= 64 bins between `edges` are kept, one bit per bin: those that have a length, whose middle
// is in an occupied cell and, with a density grid and an early stop, that light still reaches. `depth` is the
// optical depth of the kept bins so far, in double on every device, so that the same bins are kept: when it
// passes in.max_depth, the ray ends.
template <int kTile, typename T>
MCLNF_HD MCLNF_INLINE uint64_t march_keep(const March<T>& in, const MarchedRay<T>& ray, int m, const T* edges,
                                          double& depth) {
    uint64_t kept = 0;
    if (!in.cells && !in.density) {
        for (int j = 0; j < m; ++j) kept |= static_cast<uint64_t>(edges[j + 1] > edges[j]) << j;
        return kept;
    }
    int32_t cells[kTile];
    if (in.levels == 1) {
        for (int j = 0; j < m; ++j) cells[j] = march_cell<true>(in, ray, T(0.5) * (edges[j] + edges[j + 1]));
    } else {
        for (int j = 0; j < m; ++j) cells[j] = march_cell<false>(in, ray, T(0.5) * (edges[j] + edges[j + 1]));
    }
    if (in.cells) {
        for (int j = 0; j < m; ++j) {
            const bool keep = (edges[j + 1] > edges[j]) & in.cells[cells[j]];
            kept |= static_cast<uint64_t>(keep) << j;
        }
        return kept;
    }
    for (int j = 0; j < m; ++j) {
        const float value = in.density[cells[j]];
        const T length = edges[j + 1] - edges[j];
        if (!(edges[j + 1] > edges[j] && value > 0)) continue;
        if (depth > in.max_depth) break;
        depth += static_cast<double>(value) * static_cast<double>(length);
        kept |= uint64_t(1) << j;
    }
    return kept;
}

}  // namespace mclnf

// Traversing one ray through several grids of occupied cells. Shared by csrc/cpu and csrc/cuda.
//
// The arithmetic is written in the order of mclnf_fast/ops/traverse/reference.py, operation by operation, so
// that without contraction of multiplications and additions both give the same bits, and so the same samples.
#pragma once

#include "march.h"

namespace mclnf {

template <typename T>
struct Traverse {
    const T *origins, *directions;  // [R, 3]
    const bool* mask;               // [R] or null: which rays are traversed
    const bool* cells;              // [G, X, Y, Z]
    const T* aabbs;                 // [G, 6]
    const T *enters, *exits;        // [R, G]: t of the ray's part in each box
    const bool* hits;               // [R, G]
    const T *near, *far;            // [R]
    int64_t grids;
    int32_t size[3];
    double step;  // 0: a sample per cell
    T cone;
    int64_t limit;  // most samples of a ray; 0: any number
};

constexpr double kMostSteps = double(1 << 24);  // of a ray, as MOST_BINS of march_rays

// The ray's part that is traversed. A grid of a lower number lies above the others, as a finer level does.
template <typename T>
struct TraversedRay {
    T origin[3], direction[3];
    const T *enters, *exits;
    const bool* hits;
    T near, enter, exit;
    bool any;

    MCLNF_HD MCLNF_INLINE TraversedRay(const Traverse<T>& in, int64_t r)
        : enters(in.enters + r * in.grids), exits(in.exits + r * in.grids), hits(in.hits + r * in.grids) {
        for (int axis = 0; axis < 3; ++axis) {
            origin[axis] = in.origins[3 * r + axis];
            direction[axis] = in.directions[3 * r + axis];
        }
        near = in.near[r];
        enter = T(INFINITY);
        exit = -T(INFINITY);
        for (int64_t g = 0; g < in.grids; ++g) {
            if (!hits[g]) continue;
            enter = enters[g] < enter ? enters[g] : enter;
            exit = exits[g] > exit ? exits[g] : exit;
        }
        enter = enter > near ? enter : near;
        exit = exit < in.far[r] ? exit : in.far[r];
        any = is_finite(enter) && is_finite(exit) && is_finite(near) && enter < exit &&
              (!in.mask || in.mask[r]);
    }

    // The first grid that holds the point at t, or -1. `slack` widens t, as far as cells are concerned.
    MCLNF_HD MCLNF_INLINE int64_t grid_at(int64_t grids, T t, T slack) const {
        for (int64_t g = 0; g < grids; ++g) {
            if (hits[g] && enters[g] <= t + slack && t + slack < exits[g]) return g;
        }
        return -1;
    }
};

// Whether the point at t is in an occupied cell.
template <typename T>
MCLNF_HD MCLNF_INLINE bool occupied_at(const Traverse<T>& in, const TraversedRay<T>& ray, T t) {
    const int64_t grid = ray.grid_at(in.grids, t, T(0));
    if (grid < 0) return false;
    int64_t cell = grid;
    for (int axis = 0; axis < 3; ++axis) {
        const T low = in.aabbs[6 * grid + axis], size = static_cast<T>(in.size[axis]);
        const T cells_per_t = size / (in.aabbs[6 * grid + 3 + axis] - low);
        T x = ((ray.origin[axis] + ray.direction[axis] * t) - low) * cells_per_t;
        x = x > T(0) ? x : T(0);  // NaN too
        x = x < size - T(1) ? x : size - T(1);
        cell = cell * in.size[axis] + static_cast<int32_t>(x);
    }
    return in.cells[cell];
}

// The next t behind `t` at which the ray passes from one cell to another, with `slack` for rounding: what is
// nearer belongs to the same place.
template <typename T>
MCLNF_HD MCLNF_INLINE T next_crossing(const Traverse<T>& in, const TraversedRay<T>& ray, T t, T slack) {
    const int64_t grid = ray.grid_at(in.grids, t, slack);
    T next = ray.exit;
    for (int64_t g = 0; g < (grid < 0 ? in.grids : grid); ++g) {
        if (ray.hits[g] && ray.enters[g] > t + slack && ray.enters[g] < next) next = ray.enters[g];
    }
    if (grid < 0) return next;
    next = ray.exits[grid] < next ? ray.exits[grid] : next;
    for (int axis = 0; axis < 3; ++axis) {
        const T d = ray.direction[axis];
        if (d == T(0)) continue;
        const T low = in.aabbs[6 * grid + axis], size = static_cast<T>(in.size[axis]);
        const T length = (in.aabbs[6 * grid + 3 + axis] - low) / size;
        T plane = floor(((ray.origin[axis] + d * t) - low) / length);
        // Two planes are tried: rounding may have put the point on the other side of one.
        plane = d > T(0) ? plane : plane + T(1);
        for (int k = 0; k < 3; ++k) {
            const T at = ((low + plane * length) - ray.origin[axis]) / d;
            if (at > t + slack && plane > T(0) && plane < size) {
                next = at < next ? at : next;
                break;
            }
            plane = d > T(0) ? plane + T(1) : plane - T(1);
        }
    }
    return next;
}

// Calls emit(t_start, t_end) for the samples of ray r in order, and returns the t at which it stopped: where
// the next sample would begin. Of steps, `too_many` is set instead if there are more than kMostSteps.
template <typename T, typename Emit>
MCLNF_HD MCLNF_INLINE T traverse_ray(const Traverse<T>& in, int64_t r, bool& too_many, const Emit& emit) {
    const TraversedRay<T> ray(in, r);
    if (!ray.any) return ray.near;
    const bool cells = in.step <= 0, even = in.cone <= T(0);
    const T step = static_cast<T>(in.step);
    const T size = (ray.near < T(0) ? -ray.near : ray.near) + ray.exit;
    const T slack = (size < T(0) ? -size : size) * T(sizeof(T) == 4 ? 1e-6 : 1e-15);
    int64_t k = 0, samples = 0;
    T left = cells ? ray.enter : ray.near;
    if (!cells && even) {
        too_many = (static_cast<double>(ray.exit) - static_cast<double>(ray.enter)) / in.step > kMostSteps;
        if (too_many) return left;
        // The last step that surely ends before the boxes; its number is exact in double.
        const double before =
            floor((static_cast<double>(ray.enter) - static_cast<double>(ray.near)) / in.step) - 2.0;
        k = before > 0.0 ? static_cast<int64_t>(before) : 0;
        left = static_cast<T>(static_cast<double>(ray.near) + static_cast<double>(k) * in.step);
    }
    for (;;) {
        T right;
        if (cells) {
            right = next_crossing(in, ray, left, slack);
        } else if (even) {
            right = static_cast<T>(static_cast<double>(ray.near) + static_cast<double>(k + 1) * in.step);
        } else {
            const T wide = left * in.cone;
            const T length = wide > step ? wide : step;
            right = left + (length < T(1e10) ? length : T(1e10));
        }
        const T middle = T(0.5) * (left + right);
        if (middle >= ray.exit || (right <= left && !even) || (cells && right <= left)) return left;
        if (right > left && middle >= ray.enter && occupied_at(in, ray, middle)) {
            emit(left, right);
            if (++samples == in.limit) return right;
        }
        left = right;
        ++k;
    }
}

}  // namespace mclnf

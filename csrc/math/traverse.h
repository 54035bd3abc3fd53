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

// The grid that holds the points of a ray from some t on, up to `until`; `cells` null: none does.
template <typename T>
struct GridPlace {
    const bool* cells;
    T low[3], per_t[3], until;

    MCLNF_HD MCLNF_INLINE GridPlace() : cells(nullptr), until(-T(INFINITY)) {}
    MCLNF_HD MCLNF_INLINE GridPlace(const Traverse<T>& in, const TraversedRay<T>& ray, T t)
        : cells(nullptr), until(ray.exit) {
        const int64_t grid = ray.grid_at(in.grids, t, T(0));
        for (int64_t g = 0; g < (grid < 0 ? in.grids : grid); ++g) {
            if (ray.hits[g] && ray.enters[g] > t && ray.enters[g] < until) until = ray.enters[g];
        }
        if (grid < 0) return;
        until = ray.exits[grid] < until ? ray.exits[grid] : until;
        cells = in.cells + grid * in.size[0] * in.size[1] * in.size[2];
        for (int axis = 0; axis < 3; ++axis) {
            low[axis] = in.aabbs[6 * grid + axis];
            per_t[axis] = static_cast<T>(in.size[axis]) / (in.aabbs[6 * grid + 3 + axis] - low[axis]);
        }
    }

    // The cell of the point at t, within the grid.
    MCLNF_HD MCLNF_INLINE int32_t cell_at(const Traverse<T>& in, const TraversedRay<T>& ray, T t) const {
        int32_t cell = 0;
        for (int axis = 0; axis < 3; ++axis) {
            const T last = static_cast<T>(in.size[axis] - 1);
            T x = ((ray.origin[axis] + ray.direction[axis] * t) - low[axis]) * per_t[axis];
            x = x > T(0) ? x : T(0);  // NaN too
            x = x < last ? x : last;
            cell = cell * in.size[axis] + static_cast<int32_t>(x);
        }
        return cell;
    }
};

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

// Where the steps of a ray are: `left` is the begin of step k. Those of even steps are known from k.
template <typename T>
struct StepEdges {
    int64_t k;
    T left;
    bool too_many;  // even steps, more of them than kMostSteps

    MCLNF_HD MCLNF_INLINE StepEdges(const Traverse<T>& in, const TraversedRay<T>& ray)
        : k(0), left(ray.near), too_many(false) {
        if (in.cone > T(0)) return;
        too_many = (static_cast<double>(ray.exit) - static_cast<double>(ray.enter)) / in.step > kMostSteps;
        // The last step that surely ends before the boxes; its number is exact in double.
        const double before =
            floor((static_cast<double>(ray.enter) - static_cast<double>(ray.near)) / in.step) - 2.0;
        k = before > 0.0 ? static_cast<int64_t>(before) : 0;
        left = even_edge(in, ray, k);
    }

    static MCLNF_HD MCLNF_INLINE T even_edge(const Traverse<T>& in, const TraversedRay<T>& ray, int64_t k) {
        return static_cast<T>(static_cast<double>(ray.near) + static_cast<double>(k) * in.step);
    }
    static MCLNF_HD MCLNF_INLINE T grown_edge(const Traverse<T>& in, T left) {
        const T wide = left * in.cone, step = static_cast<T>(in.step);
        const T length = wide > step ? wide : step;
        return left + (length < T(1e10) ? length : T(1e10));
    }
    MCLNF_HD MCLNF_INLINE T right(const Traverse<T>& in, const TraversedRay<T>& ray) const {
        return in.cone > T(0) ? grown_edge(in, left) : even_edge(in, ray, k + 1);
    }
};

// Calls emit(t_start, t_end) for the occupied cells of a ray, in order, and returns the t at which it
// stopped.
template <typename T, typename Emit>
MCLNF_HD MCLNF_INLINE T traverse_cells(const Traverse<T>& in, const TraversedRay<T>& ray, const Emit& emit) {
    const T size = (ray.near < T(0) ? -ray.near : ray.near) + ray.exit;
    const T slack = (size < T(0) ? -size : size) * T(sizeof(T) == 4 ? 1e-6 : 1e-15);
    GridPlace<T> place;
    int64_t samples = 0;
    for (T left = ray.enter;;) {
        const T right = next_crossing(in, ray, left, slack), middle = T(0.5) * (left + right);
        if (middle >= ray.exit || right <= left) return left;
        if (middle >= place.until) place = GridPlace<T>(in, ray, middle);
        if (place.cells && place.cells[place.cell_at(in, ray, middle)]) {
            emit(left, right);
            if (++samples == in.limit) return right;
        }
        left = right;
    }
}

// The same for the steps of a ray whose middle is in an occupied cell.
template <typename T, typename Emit>
MCLNF_HD MCLNF_INLINE T traverse_steps(const Traverse<T>& in, const TraversedRay<T>& ray, StepEdges<T> step,
                                       const Emit& emit) {
    GridPlace<T> place;
    int64_t samples = 0;
    for (;; ++step.k) {
        const T left = step.left, right = step.right(in, ray), middle = T(0.5) * (left + right);
        if (middle >= ray.exit || (right <= left && in.cone > T(0))) return left;
        if (right > left && middle >= ray.enter) {
            if (middle >= place.until) place = GridPlace<T>(in, ray, middle);
            if (place.cells && place.cells[place.cell_at(in, ray, middle)]) {
                emit(left, right);
                if (++samples == in.limit) return right;
            }
        }
        step.left = right;
    }
}

}  // namespace mclnf

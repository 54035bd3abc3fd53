// Grid encodings: interpolation between the nodes of a level, and its derivatives. Shared by csrc/cpu and
// csrc/cuda.
//
// A level has n cells along each of its axes. At x, p = (clamp(x) - low) n / (high - low), i = floor(p) and
// t = p - i; s(t) is t, or 3 t^2 - 2 t^3 (smoothstep). Corner c of the point's cell has the weight
//   w_c = prod_a (bit a of c ? s_a : 1 - s_a),
// its node i + bits has an entry T_c of the table, and the features are y = sum_c w_c T_c. With g = dL/dy:
//   dL/dx_a = sum_c dw_c/dx_a <g, T_c>,   dL/dT_c = w_c g,
// and with q_c = sum_a v_a dw_c/dx_a the derivatives of <dL/dx, v> + <dL/dT, V> are
//   in g: sum_c q_c T_c + w_c V_c,   in T_c: q_c g,   in x_a: sum_c dq_c/dx_a <g, T_c> + dw_c/dx_a <g, V_c>.
// Outside [low, high] nothing depends on x.
//
// Half cells (tiny-cuda-nn): p = (x - low) scale + 1/2, with a scale per level and without a border. The
// nodes' indices are taken modulo 2^32, and their places modulo the level's entries, so that every x has its
// corners.
//
// A coordinate that is not a number gives features that are none.
// The nearest node is a corner alone, of weight 1, and has no derivative in x.
//
// Points go in tiles of up to kTile, whose arithmetic vectorizes: it is done for whole tiles, and results
// beyond the last point are dropped, which is cheaper than a loop of unknown length. The GPU takes kTile = 1.
// kAxes: number of axes if it is known when compiling, kGridOne if it is known that the nearest node alone is
// read, else 0.
#pragma once

#include "common.h"
#include "names.h"

namespace mclnf {

constexpr int kGridOne = -1;  // as kAxes

struct GridLevel {
    int64_t first;               // the level's first number in a module's table
    uint32_t numbers;            // entries * features
    uint32_t mask;               // of a place, before it is multiplied by the features
    uint32_t entries;            // if places are taken modulo them and no mask does it; else 0
    uint32_t factor[kGridAxes];  // of a node's index along an axis: the hash's, or the stride in entries
    int axis[kGridAxes];         // which coordinate
    int cells;
    bool hashed;
    double scale;  // cells / (high - low), or that of half cells
};

template <typename T>
struct GridMap {
    T low, high;
    int dims;      // coordinates of a point
    int axes;      // of a level
    int corners;   // 2^axes, or 1 for the nearest node
    int features;  // of an entry
    int interpolation;
    bool half_cell;
};

template <int kAxes>
MCLNF_HD constexpr int grid_most_corners() {
    return kAxes == kGridOne ? 1 : 1 << (kAxes > 0 ? kAxes : kGridAxes);
}

// The cells of a tile's points on a level: their corners' places in the level's table, in numbers, and the
// factors of the corners' weights by order of derivative in x (the first kOrders), bit and axis. Nearest:
// factor[0][0][0] is the one weight.
template <int kAxes, int kOrders, int kTile, typename T>
struct GridPlaces {
    static constexpr int kMostAxes = kAxes > 0 ? kAxes : kGridAxes;
    static constexpr int kMostCorners = grid_most_corners<kAxes>();
    uint32_t place[kMostCorners][kTile];
    T factor[kOrders][2][kMostAxes][kTile];
};

// A number for each corner and point.
template <int kAxes, int kTile, typename T>
using GridNumbers = T[grid_most_corners<kAxes>()][kTile];

template <int kAxes, typename T>
MCLNF_HD MCLNF_INLINE int grid_axes(const GridMap<T>& map) {
    return kAxes > 0 ? kAxes : map.axes;
}
template <int kAxes, typename T>
MCLNF_HD MCLNF_INLINE int grid_corners(const GridMap<T>& map) {
    return kAxes == 0 ? map.corners : grid_most_corners<kAxes>();
}
template <int kAxes, typename T>
MCLNF_HD MCLNF_INLINE bool grid_nearest(const GridMap<T>& map) {
    return kAxes == kGridOne || (kAxes == 0 && map.interpolation == kGridNearest);
}

// One column of [m, dims], from `from` on; the rest of the tile is `rest`.
template <int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_column(const T* from, int dims, int m, T rest, T* column) {
    for (int j = 0; j < kTile; ++j) column[j] = rest;
    for (int j = 0; j < m; ++j) column[j] = from[static_cast<int64_t>(j) * dims];
}

// Along an axis of half cells: the lower node's index, and the point's position between it and the next.
template <int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_half_cell(const GridMap<T>& map, const GridLevel& level, const T* x,
                                          uint32_t* lower, T* t) {
    constexpr T most = 1 << 30;  // beyond, where float has no fractions, the node is that one
    const T scale = static_cast<T>(level.scale);
    T q[kTile];
    for (int j = 0; j < kTile; ++j) {
        t[j] = (x[j] - map.low) * scale + T(0.5);
        q[j] = t[j] > -most ? t[j] : -most;  // not a number: that node
        q[j] = q[j] < most ? q[j] : most;
    }
    for (int j = 0; j < kTile; ++j) {  // a loop of its own: in that above GCC makes branches of the limits
        const int toward_zero = static_cast<int>(q[j]);
        const int node = toward_zero - (static_cast<T>(toward_zero) > q[j] ? 1 : 0);
        lower[j] = static_cast<uint32_t>(node);
        t[j] -= static_cast<T>(node);
    }
}

// Along axis a: the lower node's index times the axis' factor, and the weights' factors.
template <int kAxes, int kOrders, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_place_axis(const GridMap<T>& map, const GridLevel& level, int a, const T* x,
                                           uint32_t* lower, GridPlaces<kAxes, kOrders, kTile, T>& places) {
    const T low = map.low, high = map.high, scale = static_cast<T>(level.scale);
    const T last = static_cast<T>(level.cells - 1);  // the last cell ends with the last node
    const bool smooth = map.interpolation == kGridSmoothstep;
    T t[kTile], inside[kTile];
    if (map.half_cell) {
        grid_half_cell<kTile>(map, level, x, lower, t);
        for (int j = 0; j < kTile; ++j) {
            lower[j] *= level.factor[a];
            inside[j] = scale;
        }
    } else {
        for (int j = 0; j < kTile; ++j) {
            const T clamped = x[j] < low ? low : (x[j] > high ? high : x[j]);
            const T p = (clamped - low) * scale;
            T q = p > T(0) ? p : T(0);  // not a number: node 0
            q = q < last ? q : last;
            const int node = static_cast<int>(q);
            lower[j] = static_cast<uint32_t>(node) * level.factor[a];
            t[j] = p - static_cast<T>(node);
            inside[j] = clamped == x[j] ? scale : T(0);
        }
    }
    for (int j = 0; j < kTile; ++j) {
        const T share = smooth ? t[j] * t[j] * (T(3) - T(2) * t[j]) : t[j];
        places.factor[0][0][a][j] = T(1) - share;
        places.factor[0][1][a][j] = share;
    }
    if constexpr (kOrders > 1) {
        for (int j = 0; j < kTile; ++j) {
            const T first = (smooth ? T(6) * t[j] * (T(1) - t[j]) : T(1)) * inside[j];
            places.factor[1][0][a][j] = -first;
            places.factor[1][1][a][j] = first;
        }
    }
    if constexpr (kOrders > 2) {
        for (int j = 0; j < kTile; ++j) {
            const T second = (smooth ? T(6) - T(12) * t[j] : T(0)) * (inside[j] * inside[j]);
            places.factor[2][0][a][j] = -second;
            places.factor[2][1][a][j] = second;
        }
    }
}

// The nearest node along axis a, times the axis' factor; the weight stays 1 or becomes no number.
template <int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_place_nearest(const GridMap<T>& map, const GridLevel& level, int a,
                                              const T* x, uint32_t* node, T* weight) {
    const T low = map.low, high = map.high, scale = static_cast<T>(level.scale);
    const T last = static_cast<T>(level.cells);
    if (map.half_cell) {
        T t[kTile];
        grid_half_cell<kTile>(map, level, x, node, t);
        for (int j = 0; j < kTile; ++j) {
            const T one = T(0) * t[j] + T(1);  // 1, or no number
            node[j] *= level.factor[a];
            weight[j] = a == 0 ? one : weight[j] * one;
        }
        return;
    }
    for (int j = 0; j < kTile; ++j) {
        const T clamped = x[j] < low ? low : (x[j] > high ? high : x[j]);
        T q = (clamped - low) * scale + T(0.5);
        const T one = q == q ? T(1) : q;
        q = q > T(0) ? q : T(0);
        q = q < last ? q : last;
        node[j] = static_cast<uint32_t>(static_cast<int>(q)) * level.factor[a];
        weight[j] = a == 0 ? one : weight[j] * one;
    }
}

// Places modulo the entries. A division is slow, and almost no place needs it: those of points on the box's
// upper border, and of tiled levels.
template <int kTile>
MCLNF_HD MCLNF_INLINE void grid_wrap(uint32_t entries, int corners, uint32_t (*place)[kTile]) {
    for (int c = 0; c < corners; ++c) {
        uint32_t largest = 0;
        for (int j = 0; j < kTile; ++j) largest = place[c][j] > largest ? place[c][j] : largest;
        if (largest < entries) continue;
        for (int j = 0; j < kTile; ++j) place[c][j] %= entries;
    }
}

// The corners' places and the factors. x: the coordinates of the tile's first point.
template <int kAxes, int kOrders, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_place(const GridMap<T>& map, const GridLevel& level, const T* x, int m,
                                      GridPlaces<kAxes, kOrders, kTile, T>& places) {
    T column[kTile];
    uint32_t node[kTile];
    const bool nearest = grid_nearest<kAxes>(map);
    int corners = 1;
    for (int j = 0; j < kTile; ++j) places.place[0][j] = 0;
    for (int a = 0; a < grid_axes<kAxes>(map); ++a) {
        grid_column<kTile>(x + level.axis[a], map.dims, m, map.low, column);
        if (nearest)
            grid_place_nearest<kTile>(map, level, a, column, node, places.factor[0][0][0]);
        else
            grid_place_axis(map, level, a, column, node, places);
        // Each corner so far becomes two.
        const uint32_t step = level.factor[a];
        for (int c = 0; c < corners; ++c) {
            uint32_t *lower = places.place[c], *upper = places.place[nearest ? c : c + corners];
            if (level.hashed) {
                for (int j = 0; j < kTile; ++j) {
                    const uint32_t before = lower[j];
                    upper[j] = before ^ (node[j] + step);
                    lower[j] = before ^ node[j];
                }
            } else {
                for (int j = 0; j < kTile; ++j) {
                    const uint32_t before = lower[j];
                    upper[j] = before + (node[j] + step);
                    lower[j] = before + node[j];
                }
            }
        }
        corners = nearest ? 1 : 2 * corners;
    }
    if (level.entries > 0) grid_wrap<kTile>(level.entries, corners, places.place);
    const uint32_t features = static_cast<uint32_t>(map.features);
    for (int c = 0; c < corners; ++c) {
        for (int j = 0; j < kTile; ++j) places.place[c][j] = (places.place[c][j] & level.mask) * features;
    }
}

// The corners' weights, differentiated in x_a and in x_b; -1: not differentiated.
template <int kAxes, int kOrders, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_weights(const GridMap<T>& map,
                                        const GridPlaces<kAxes, kOrders, kTile, T>& places, int a, int b,
                                        GridNumbers<kAxes, kTile, T>& weight) {
    const int order = (a == 0) + (b == 0);
    for (int j = 0; j < kTile; ++j) weight[0][j] = places.factor[order][0][0][j];
    if (grid_corners<kAxes>(map) == 1) return;
    for (int j = 0; j < kTile; ++j) weight[1][j] = places.factor[order][1][0][j];
    for (int e = 1; e < grid_axes<kAxes>(map); ++e) {
        const int order = (a == e) + (b == e), corners = 1 << e;
        const T *lower = places.factor[order][0][e], *upper = places.factor[order][1][e];
        for (int c = 0; c < corners; ++c) {
            for (int j = 0; j < kTile; ++j) {
                const T before = weight[c][j];
                weight[c + corners][j] = before * upper[j];
                weight[c][j] = before * lower[j];
            }
        }
    }
}

// q_c; v: the direction at the tile's first point, [m, dims].
template <int kAxes, int kOrders, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_tangents(const GridMap<T>& map, const GridLevel& level,
                                         const GridPlaces<kAxes, kOrders, kTile, T>& places, const T* v,
                                         int m, GridNumbers<kAxes, kTile, T>& tangent) {
    GridNumbers<kAxes, kTile, T> weight;
    for (int j = 0; j < kTile; ++j) {
        weight[0][j] = T(1);
        tangent[0][j] = T(0);
    }
    if (grid_corners<kAxes>(map) == 1) return;
    for (int e = 0; e < grid_axes<kAxes>(map); ++e) {
        const int corners = 1 << e;
        const T *lower = places.factor[0][0][e], *upper = places.factor[0][1][e],
                *derivative = places.factor[1][1][e];
        T along[kTile];
        grid_column<kTile>(v + level.axis[e], map.dims, m, T(0), along);
        for (int j = 0; j < kTile; ++j)
            along[j] *= derivative[j];  // the lower factor's derivative is the opposite one
        for (int c = 0; c < corners; ++c) {
            for (int j = 0; j < kTile; ++j) {
                const T w = weight[c][j], q = tangent[c][j];
                weight[c + corners][j] = w * upper[j];
                weight[c][j] = w * lower[j];
                tangent[c + corners][j] = q * upper[j] + w * along[j];
                tangent[c][j] = q * lower[j] - w * along[j];
            }
        }
    }
}

// Adds sum_c dw_c/dx_a dot_c to the gradient of x [m, dims].
template <int kAxes, int kOrders, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_add_first(const GridMap<T>& map, const GridLevel& level,
                                          const GridPlaces<kAxes, kOrders, kTile, T>& places,
                                          const GridNumbers<kAxes, kTile, T>& dot, int m, T* grad_x) {
    for (int a = 0; a < grid_axes<kAxes>(map); ++a) {
        GridNumbers<kAxes, kTile, T> first;
        T sum[kTile];
        grid_weights(map, places, a, -1, first);
        for (int j = 0; j < kTile; ++j) sum[j] = 0;
        for (int c = 0; c < grid_corners<kAxes>(map); ++c) {
            for (int j = 0; j < kTile; ++j) sum[j] += first[c][j] * dot[c][j];
        }
        for (int j = 0; j < m; ++j) grad_x[static_cast<int64_t>(j) * map.dims + level.axis[a]] += sum[j];
    }
}

// Adds sum_c dq_c/dx_a dot_c to the gradient of x [m, dims].
template <int kAxes, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_add_second(const GridMap<T>& map, const GridLevel& level,
                                           const GridPlaces<kAxes, 3, kTile, T>& places, const T* v,
                                           const GridNumbers<kAxes, kTile, T>& dot, int m, T* grad_x) {
    MCLNF_UNROLL
    for (int b = 0; b < grid_axes<kAxes>(map); ++b) {
        T along[kTile];
        grid_column<kTile>(v + level.axis[b], map.dims, m, T(0), along);
        MCLNF_UNROLL
        for (int a = 0; a < grid_axes<kAxes>(map); ++a) {
            GridNumbers<kAxes, kTile, T> second;
            T sum[kTile];
            grid_weights(map, places, a, b, second);
            for (int j = 0; j < kTile; ++j) sum[j] = 0;
            for (int c = 0; c < grid_corners<kAxes>(map); ++c) {
                for (int j = 0; j < kTile; ++j) sum[j] += second[c][j] * dot[c][j];
            }
            for (int j = 0; j < m; ++j)
                grad_x[static_cast<int64_t>(j) * map.dims + level.axis[a]] += along[j] * sum[j];
        }
    }
}

}  // namespace mclnf

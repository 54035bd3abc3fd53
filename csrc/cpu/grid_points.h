// Grid encodings on the CPU, one share of the work: points through all levels, tile after tile, or all points
// of a module on a part of one level's table. The arithmetic is csrc/math/grid.h; grid.cpp makes the shares.
#pragma once

#include <algorithm>
#include <cstring>

#include "math/grid_table.h"

namespace mclnf {

constexpr int kGridTile = 32;  // a tile's scratch stays in the first-level cache

// Pointers of one call; null if not asked for.
template <typename T>
struct GridCall {
    GridMap<T> map;
    const GridLevel* levels;
    int level_count, outputs;
    bool together;
    int64_t numbers;  // of a module's table
    const T *x, *tables, *grad_y, *tangent_x, *tangent_tables;
    T *y, *grad_x, *grad_tables, *grad_grad_y;

    MCLNF_INLINE const T* table(const T* of, int64_t module, const GridLevel& level) const {
        return of + module * numbers + level.first;
    }
    MCLNF_INLINE int64_t column(int level) const { return together ? 0 : level * map.features; }
};

// Points of one module; of a part of one level's table as well when gradients are added up.
struct GridShare {
    int64_t module, begin, end;
    int level;
    uint32_t place, count;
};

// Asks for the tile's entries all at once, those within `count` places from `begin` on: the memory answers
// while the weights are worked out.
template <int kAxes, int kOrders, typename T>
MCLNF_INLINE void grid_fetch(const GridMap<T>& map, const GridPlaces<kAxes, kOrders, kGridTile, T>& places,
                             const T* table, int m, uint32_t begin, uint32_t count) {
    for (int f = 0; f < map.features; f += static_cast<int>(64 / sizeof(T))) {
        for (int c = 0; c < map.corners; ++c) {
            for (int j = 0; j < m; ++j) {
                const uint32_t place = places.place[c][j];
                if (place - begin < count) __builtin_prefetch(table + place + f);
            }
        }
    }
}

template <int kAxes, typename T>
MCLNF_INLINE void forward_points(const GridCall<T>& in, const GridShare& share) {
    for (int l = 0; l < in.level_count; ++l) {
        const GridLevel& level = in.levels[l];
        const T* table = in.table(in.tables, share.module, level);
        for (int64_t at = share.begin; at < share.end; at += kGridTile) {
            const int m = static_cast<int>(std::min<int64_t>(kGridTile, share.end - at));
            GridPlaces<kAxes, 1, kGridTile, T> places;
            GridNumbers<kAxes, kGridTile, T> weight;
            grid_place(in.map, level, in.x + at * in.map.dims, m, places);
            grid_fetch(in.map, places, table, m, 0, level.numbers);
            grid_weights(in.map, places, -1, -1, weight);
            grid_gather(in.map, places, weight, table, m, in.y + at * in.outputs + in.column(l), in.outputs,
                        in.together && l > 0);
        }
    }
}

template <int kAxes, typename T>
MCLNF_INLINE void backward_points(const GridCall<T>& in, const GridShare& share) {
    const int64_t dims = in.map.dims;
    std::memset(in.grad_x + share.begin * dims, 0,
                static_cast<size_t>((share.end - share.begin) * dims) * sizeof(T));
    if (in.map.corners == 1) return;
    for (int l = 0; l < in.level_count; ++l) {
        const GridLevel& level = in.levels[l];
        const T* table = in.table(in.tables, share.module, level);
        for (int64_t at = share.begin; at < share.end; at += kGridTile) {
            const int m = static_cast<int>(std::min<int64_t>(kGridTile, share.end - at));
            GridPlaces<kAxes, 2, kGridTile, T> places;
            GridNumbers<kAxes, kGridTile, T> dot;
            grid_place(in.map, level, in.x + at * dims, m, places);
            grid_fetch(in.map, places, table, m, 0, level.numbers);
            grid_dots(in.map, places, table, in.grad_y + at * in.outputs + in.column(l), in.outputs, m, dot);
            grid_add_first(in.map, level, places, dot, m, in.grad_x + at * dims);
        }
    }
}

template <int kAxes, typename T>
MCLNF_INLINE void second_points(const GridCall<T>& in, const GridShare& share) {
    const int64_t dims = in.map.dims;
    if (in.grad_x)
        std::memset(in.grad_x + share.begin * dims, 0,
                    static_cast<size_t>((share.end - share.begin) * dims) * sizeof(T));
    for (int l = 0; l < in.level_count; ++l) {
        const GridLevel& level = in.levels[l];
        const T* table = in.table(in.tables, share.module, level);
        const T* direction = in.tangent_tables ? in.table(in.tangent_tables, share.module, level) : nullptr;
        for (int64_t at = share.begin; at < share.end; at += kGridTile) {
            const int m = static_cast<int>(std::min<int64_t>(kGridTile, share.end - at));
            const T* grad = in.grad_y + at * in.outputs + in.column(l);
            const T* along = in.tangent_x ? in.tangent_x + at * dims : nullptr;
            GridPlaces<kAxes, 3, kGridTile, T> places;
            GridNumbers<kAxes, kGridTile, T> value;
            grid_place(in.map, level, in.x + at * dims, m, places);
            grid_fetch(in.map, places, along ? table : direction, m, 0, level.numbers);
            if (in.grad_grad_y) {
                T* out = in.grad_grad_y + at * in.outputs + in.column(l);
                bool add = in.together && l > 0;
                if (along) {
                    grid_tangents(in.map, level, places, along, m, value);
                    grid_gather(in.map, places, value, table, m, out, in.outputs, add);
                    add = true;
                }
                if (direction) {
                    grid_weights(in.map, places, -1, -1, value);
                    grid_gather(in.map, places, value, direction, m, out, in.outputs, add);
                }
            }
            if (in.grad_x && in.map.corners > 1) {
                if (along) {
                    grid_dots(in.map, places, table, grad, in.outputs, m, value);
                    grid_add_second(in.map, level, places, along, value, m, in.grad_x + at * dims);
                }
                if (direction) {
                    grid_dots(in.map, places, direction, grad, in.outputs, m, value);
                    grid_add_first(in.map, level, places, value, m, in.grad_x + at * dims);
                }
            }
        }
    }
}

// Adds to one part of a table: w_c g, or q_c g along tangent_x if there is one.
template <int kAxes, typename T>
MCLNF_INLINE void scatter_points(const GridCall<T>& in, const GridShare& share) {
    const GridLevel& level = in.levels[share.level];
    T* table = in.grad_tables + share.module * in.numbers + level.first;
    std::memset(table + share.place, 0, share.count * sizeof(T));
    for (int64_t at = share.begin; at < share.end; at += kGridTile) {
        const int m = static_cast<int>(std::min<int64_t>(kGridTile, share.end - at));
        GridPlaces<kAxes, 2, kGridTile, T> places;
        GridNumbers<kAxes, kGridTile, T> weight;
        grid_place(in.map, level, in.x + at * in.map.dims, m, places);
        grid_fetch(in.map, places, table, m, share.place, share.count);
        if (in.tangent_x)
            grid_tangents(in.map, level, places, in.tangent_x + at * in.map.dims, m, weight);
        else
            grid_weights(in.map, places, -1, -1, weight);
        grid_scatter(in.map, places, weight, in.grad_y + at * in.outputs + in.column(share.level), in.outputs,
                     m, share.place, share.count, table);
    }
}

}  // namespace mclnf

// Grid encodings on CUDA, the reads of the tables: features and their derivatives in the cotangent, one
// thread per point and few features, and gradients of x, one thread (or a few) per point. No two threads
// write one number. The arithmetic is csrc/math/grid.h.
#pragma once

#include "grid_device.h"

namespace mclnf {

// y = sum_c w_c values_c + q_c directional_c; q along `along`. Null: no such term.
template <typename T>
struct GridGather {
    const T *values, *directional, *along;
    T* y;
    int columns;      // threads that share a point's features
    int each;         // levels per thread, one after another
    unsigned blocks;  // of a part: `each` levels of all points
};

// kBlock features of a point per thread, at addresses that are multiples of as many numbers if kBlock > 1.
template <int kAxes, int kOrders, int kBlock, typename T>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const __grid_constant__ GridLaunch<T> in, const __grid_constant__ GridGather<T> job) {
    const GridItem item(this_item(job.blocks), job.columns);
    if (item.row >= in.points) return;
    const int64_t module = module_of(in.offsets, in.modules, item.row);
    const int corners = grid_corners<kAxes>(in.map), f = item.column * kBlock;
    const T* x = in.x + item.row * in.map.dims;
    T* row = job.y + item.row * in.outputs + f;
    const int first = this_part(job.blocks) * job.each;
    const int end = first + job.each < in.level_count ? first + job.each : in.level_count;
    for (int l = first; l < end; ++l) {
        const GridLevel& level = in.levels[l];
        GridPlaces<kAxes, kOrders, 1, T> places;
        GridNumbers<kAxes, 1, T> share;
        grid_place(in.map, level, x, 1, places);
        T* out = row + in.column(l);
        bool add = in.together && in.first_level + l > 0;
        if constexpr (kOrders > 1) {
            if (job.directional) {
                grid_tangents(in.map, level, places, job.along + item.row * in.map.dims, 1, share);
                grid_gather_block<kBlock, (kBlock > 1)>(
                    places, corners, share, in.table(job.directional, module, level) + f, 1, out, 0, add);
                add = true;
            }
        }
        if (job.values) {
            grid_weights(in.map, places, -1, -1, share);
            grid_gather_block<kBlock, (kBlock > 1)>(places, corners, share,
                                                    in.table(job.values, module, level) + f, 1, out, 0, add);
        }
    }
}

// The gradient of x: sum_c dw_c/dx <g, values_c> + dq_c/dx <g, directional_c>.
template <typename T>
struct GridPointGradients {
    const T *values, *directional, *along, *grad_y;
    T* grad_x;
    int lanes;   // neighbors that share a point's features, a power of two up to 32
    bool begin;  // the gradient is 0 so far
};

// dot_c = <g, T_c>, the same in all lanes: each adds up its own features, then they add in pairs.
template <int kAxes, int kOrders, int kBlock, typename T>
__device__ inline void shared_dots(const GridMap<T>& map, const GridPlaces<kAxes, kOrders, 1, T>& places,
                                   const T* table, const T* g, int lane, int lanes,
                                   GridNumbers<kAxes, 1, T>& dot) {
    const int corners = grid_corners<kAxes>(map);
    for (int c = 0; c < corners; ++c) dot[c][0] = 0;
    for (int f = lane * kBlock; f < map.features; f += lanes * kBlock)
        grid_dots_block<kBlock, (kBlock > 1)>(places, corners, table + f, g + f, 0, 1, dot);
    for (int half = lanes / 2; half > 0; half /= 2) {
        for (int c = 0; c < corners; ++c) dot[c][0] += __shfl_xor_sync(0xffffffff, dot[c][0], half);
    }
}

template <int kAxes, int kOrders, int kBlock, typename T>
__global__ void __launch_bounds__(kThreads)
    point_gradients_kernel(const __grid_constant__ GridLaunch<T> in,
                           const __grid_constant__ GridPointGradients<T> job) {
    const GridItem item(this_item(gridDim.x), job.lanes);
    // All lanes stay to the end, for the sums; those behind the last point do its work and do not write.
    const bool there = item.row < in.points, writes = there && item.column == 0;
    const int64_t point = there ? item.row : in.points - 1, dims = in.map.dims;
    const int64_t module = module_of(in.offsets, in.modules, point);
    const T *x = in.x + point * dims, *g = job.grad_y + point * in.outputs;
    T* grad_x = job.grad_x + point * dims;
    if (writes && job.begin) {
        for (int64_t d = 0; d < dims; ++d) grad_x[d] = 0;
    }
    for (int l = 0; l < in.level_count; ++l) {
        const GridLevel& level = in.levels[l];
        GridPlaces<kAxes, kOrders, 1, T> places;
        GridNumbers<kAxes, 1, T> dot;
        grid_place(in.map, level, x, 1, places);
        if constexpr (kOrders > 2) {
            if (job.directional) {
                shared_dots<kAxes, kOrders, kBlock>(in.map, places, in.table(job.directional, module, level),
                                                    g + in.column(l), item.column, job.lanes, dot);
                if (writes) grid_add_second(in.map, level, places, job.along + point * dims, dot, 1, grad_x);
            }
        }
        if (job.values) {
            shared_dots<kAxes, kOrders, kBlock>(in.map, places, in.table(job.values, module, level),
                                                g + in.column(l), item.column, job.lanes, dot);
            if (writes) grid_add_first(in.map, level, places, dot, 1, grad_x);
        }
    }
}

}  // namespace mclnf

// Grid encodings on CUDA, the additions to the tables: the gradient, in integers, so that the order of the
// threads does not show (csrc/math/grid_sum.h). Three kernels: the largest cotangent of a module; the
// addends, one thread per number of an entry; the sums as numbers.
#pragma once

#include "grid_device.h"
#include "math/grid_sum.h"

namespace mclnf {

// The addends are w_c g, or q_c g along `along` if that is given.
template <typename T>
struct GridAddends {
    const T *grad_y, *along;
    double factor[kLaunchLevels];  // a level's bound over a module's largest (grid_sum_factor)
    unsigned long long* largest;   // [modules], a double's bits
    unsigned long long* sums;      // [modules, numbers of the launch's levels, words]
    unsigned* broken;              // a bit for each number of the tables: an addend was not finite
    T* grad_tables;
    uint32_t level_numbers;  // of the launch's levels
    unsigned blocks;         // of a level (or of a module, in finish_kernel)
    bool again;              // the sums will be used for more levels
};

constexpr int kLargestEach = 16;  // numbers per thread

// The integer maximum of the bits is that of the numbers, in any order. Numbers that are not finite are left
// out: whatever they are added to is marked.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    largest_kernel(const __grid_constant__ GridLaunch<T> in, const __grid_constant__ GridAddends<T> job) {
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * kThreads * kLargestEach + threadIdx.x;
    const int down = kThreads / in.outputs, across = kThreads % in.outputs;
    GridItem item(begin, in.outputs);
    int64_t module = 0, end = 0;
    for (int k = 0; k < kLargestEach; ++k) {
        const bool there = item.row < in.points;
        const int64_t point = there ? item.row : in.points - 1;
        if (point >= end) {
            module = module_of(in.offsets, in.modules, point);
            end = in.offsets[module + 1];
        }
        unsigned long long bits = 0;
        if (there) {
            const double g = static_cast<double>(job.grad_y[point * in.outputs + item.column]);
            double along = 1;
            if (job.along) {
                along = 0;
                for (int d = 0; d < in.map.dims; ++d)
                    along += std::abs(static_cast<double>(job.along[point * in.map.dims + d]));
            }
            if (!beyond(g) && !beyond(along)) bits = bits_of(std::abs(g) * along);
        }
        // A warp's points are mostly of one module: its lanes agree before one of them writes: 32 atomics on
        // one address would wait for each other.
        const bool one_module = __all_sync(0xffffffff, module == __shfl_sync(0xffffffff, module, 0));
        if (one_module) {
            for (int half = 16; half > 0; half /= 2) {
                const unsigned long long other = __shfl_xor_sync(0xffffffff, bits, half);
                bits = other > bits ? other : bits;
            }
        }
        // An old value, that a cache may hold, is at most the new one.
        if ((!one_module || threadIdx.x % 32 == 0) && bits > job.largest[module])
            atomicMax(job.largest + module, bits);
        item.row += down;
        item.column += across;
        if (item.column >= in.outputs) {
            item.column -= in.outputs;
            ++item.row;
        }
    }
}

template <typename T>
__device__ inline GridSum sum_of(const GridLaunch<T>& in, const GridAddends<T>& job, int64_t module, int l) {
    const int64_t points = in.offsets[module + 1] - in.offsets[module];
    return grid_sum(double_of(job.largest[module]) * job.factor[l], points > 0 ? points : 0);
}

// Neighbors have the numbers of one entry, whose sums lie in one sector of the cache that adds them up.
template <int kAxes, int kOrders, typename T>
__global__ void __launch_bounds__(kThreads)
    addends_kernel(const __grid_constant__ GridLaunch<T> in, const __grid_constant__ GridAddends<T> job) {
    const GridItem item(this_item(job.blocks), in.map.features);
    if (item.row >= in.points) return;
    const int l = this_part(job.blocks);
    const int64_t module = module_of(in.offsets, in.modules, item.row);
    const GridSum sum = sum_of(in, job, module, l);
    if (!sum.known) return;
    const GridLevel& level = in.levels[l];
    const T* x = in.x + item.row * in.map.dims;
    const T g = job.grad_y[item.row * in.outputs + in.column(l) + item.column];
    GridPlaces<kAxes, kOrders, 1, T> places;
    GridNumbers<kAxes, 1, T> share;
    grid_place(in.map, level, x, 1, places);
    if constexpr (kOrders > 1)
        grid_tangents(in.map, level, places, job.along + item.row * in.map.dims, 1, share);
    else
        grid_weights(in.map, places, -1, -1, share);
    constexpr int kWords = kGridSumWords<T>;
    unsigned long long* sums =
        job.sums + (module * job.level_numbers + (level.first - in.levels[0].first) + item.column) * kWords;
    for (int c = 0; c < grid_corners<kAxes>(in.map); ++c) {
        const T addend = share[c][0] * g;
        if (beyond(static_cast<double>(addend))) {
            const int64_t number = module * in.numbers + level.first + places.place[c][0] + item.column;
            atomicOr(job.broken + number / 32, 1u << (number % 32));
            continue;
        }
        int64_t words[kWords];
        grid_sum_split(sum, addend, words);
        for (int w = 0; w < kWords; ++w) {
            if (words[w] != 0)
                atomicAdd(sums + static_cast<int64_t>(places.place[c][0]) * kWords + w,
                          static_cast<unsigned long long>(words[w]));
        }
    }
}

// One part per module: the numbers of the launch's levels.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const __grid_constant__ GridLaunch<T> in, const __grid_constant__ GridAddends<T> job) {
    const int64_t module = this_part(job.blocks), at = this_item(job.blocks);
    if (at >= job.level_numbers) return;
    int l = 0;
    while (l + 1 < in.level_count && in.levels[l + 1].first - in.levels[0].first <= at) ++l;
    const GridSum sum = sum_of(in, job, module, l);
    constexpr int kWords = kGridSumWords<T>;
    unsigned long long* sums = job.sums + (module * job.level_numbers + at) * kWords;
    int64_t words[kWords];
    for (int w = 0; w < kWords; ++w) {
        words[w] = static_cast<int64_t>(sums[w]);
        if (job.again) sums[w] = 0;
    }
    const int64_t number = module * in.numbers + in.levels[0].first + at;
    const bool known = sum.known && (job.broken[number / 32] >> (number % 32) & 1) == 0;
    job.grad_tables[number] = known ? grid_sum_value<T>(sum, words) : static_cast<T>(NAN);
}

}  // namespace mclnf

// Shared by the kernels of grid encodings: a launch's parameters, and which thread has which point.
#pragma once

#include "launch.h"
#include "math/grid_table.h"
#include "math/modules.h"

namespace mclnf {

constexpr int kLaunchLevels = 16;  // of a launch at most: they are parameters of the kernel

// Some levels, one after another, and all points. The rest as in csrc/cpu/grid_points.h.
template <typename T>
struct GridLaunch {
    GridMap<T> map;
    GridLevel levels[kLaunchLevels];
    int level_count, first_level, outputs;
    bool together;
    int64_t numbers;  // of a module's table
    int64_t points, modules;
    const int64_t* offsets;
    const T* x;

    MCLNF_HD const T* table(const T* of, int64_t module, const GridLevel& level) const {
        return of + module * numbers + level.first;
    }
    MCLNF_HD int64_t column(int level) const {
        return together ? 0 : static_cast<int64_t>(first_level + level) * map.features;
    }
};

// Thread number `item` of [rows, columns].
struct GridItem {
    int64_t row;
    int column;

    __device__ GridItem(int64_t item, int columns)
        : row(columns == 1 ? item : quotient(item, columns)),
          column(static_cast<int>(item - row * columns)) {}
};

// A launch of `parts` times `blocks` blocks, part after part: the blocks of a part run side by side. (The
// order is not promised by CUDA, and nothing but speed depends on it.)
__device__ inline int this_part(unsigned blocks) { return static_cast<int>(blockIdx.x / blocks); }
__device__ inline int64_t this_item(unsigned blocks) {
    return static_cast<int64_t>(blockIdx.x % blocks) * kThreads + threadIdx.x;
}

}  // namespace mclnf

// Which module a point, or a number of a tensor [M, ...], belongs to.
#pragma once

#include "common.h"

namespace mclnf {

// a / by, a at least 0 and by above. A GPU's divisions of 64 bits take dozens of instructions, and are seldom
// needed.
MCLNF_HD MCLNF_INLINE int64_t quotient(int64_t a, int64_t by) {
    if ((a | by) <= 0xffffffff) return static_cast<uint32_t>(a) / static_cast<uint32_t>(by);
    return a / by;
}

// By bisection of offsets [modules + 1], modules >= 1: the last module that begins at or before the point,
// and so never an empty one. Whatever the offsets hold, it is one of 0 ... modules - 1.
MCLNF_HD MCLNF_INLINE int64_t module_of(const int64_t* offsets, int64_t modules, int64_t point) {
    int64_t low = 0, high = modules;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (offsets[middle] <= point)
            low = middle;
        else
            high = middle;
    }
    return low;
}

}  // namespace mclnf

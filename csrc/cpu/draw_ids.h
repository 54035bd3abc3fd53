// The samples that a module takes in a step, as the ops `draw_ids` and `bank_fit` share them.
#pragma once

#include <cstdint>

#include "math/draws.h"
#include "names.h"

namespace mclnf {

// The ids of a batch among n samples, by kDrawUniform or kDrawEven; `ids` has room for batch + 1.
void draw_batch(DrawRule rule, const DrawCounter& at, int64_t n, int64_t batch, int64_t* ids);

inline DrawCounter draw_counter(int64_t seed, int64_t task, int64_t module, int64_t step) {
    const uint64_t bits = static_cast<uint64_t>(seed);
    return {{static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)},
            static_cast<uint32_t>(task),
            static_cast<uint32_t>(module),
            static_cast<uint32_t>(step)};
}

constexpr int64_t kMaxDrawTask = (int64_t(1) << 24) - 1;
constexpr int64_t kMaxDrawNumber = (int64_t(1) << 32) - 1;  // of a module, a step or a sample

}  // namespace mclnf

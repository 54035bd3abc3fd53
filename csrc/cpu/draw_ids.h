// The samples that a module takes in a step, as the ops `draw_ids` and `bank_fit` share them.
#pragma once

#include <cstdint>

#include "math/draws.h"
#include "names.h"

namespace mclnf {

// The ids of a batch among n samples, by kDrawUniform or kDrawEven; `ids` has room for batch + 1.
void draw_batch(DrawRule rule, const DrawCounter& at, int64_t n, int64_t batch, int64_t* ids);

}  // namespace mclnf

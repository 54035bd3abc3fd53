// The running sums of the samples per ray, which place them in a packed result.
#pragma once

#include <array>

#include "tensors.h"

namespace mclnf {

// Of int64 counts [R], by torch, on the current stream. `op` is named in the error.
inline Tensor cumulative_sum(const Tensor& counts, const char* op) {
    const std::optional<ScalarType> same;
    std::array<StableIValue, 3> stack{torch::stable::detail::from(counts),
                                      torch::stable::detail::from(int64_t(0)),
                                      torch::stable::detail::from(same)};
    STD_TORCH_CHECK(torch_call_dispatcher("aten::cumsum", "", stack.data(), TORCH_ABI_VERSION) == 0, op,
                    ": the sum of the counts failed");
    return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace mclnf

// The running diagonal Fisher of a module, and the scores of samples against it
// (mclnf_fast/ops/fisher/running.py has the definition in PyTorch).
#pragma once

#include <limits>

#include "common.h"

namespace mclnf {

template <typename S>
constexpr double kLeastDamping = std::numeric_limits<S>::min();

// What is added to a Fisher before samples are scored against it, relative to its mean: `count` numbers with
// this sum. Never 0: a module without gradients has F = 0, and its scores could be 0 / 0.
template <typename S>
MCLNF_HD MCLNF_INLINE S mean_damping(double relative, double total, int64_t count) {
    const double damping = relative * total / static_cast<double>(count);
    return static_cast<S>(damping < kLeastDamping<S> ? kLeastDamping<S> : damping);
}

// 1 / (F + damping)
template <typename S>
MCLNF_HD MCLNF_INLINE S inverse_fisher(S fisher, S damping) {
    const S sum = fisher + damping;
    return sum > S(0) ? S(1) / sum : S(0);
}

// The Fisher of one batch more, which counts `rate`; the first of a module counts whole.
template <typename S>
MCLNF_HD MCLNF_INLINE S running_fisher(bool first, S rate, S running, S batch) {
    return first || rate == S(1) ? batch : running + rate * (batch - running);
}

// Of a sample's own loss, from the score of its loss times a draw's weight.
template <typename S>
MCLNF_HD MCLNF_INLINE S own_score(S score, S weight) {
    return score / (weight * weight);
}

}  // namespace mclnf

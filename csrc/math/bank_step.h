// One optimizer step of one parameter: SGD and Adam (arXiv 1412.6980, algorithm 1), with the pull of a trust
// region. Plain multiplications and additions, so that every instruction set gives the same bits.
#pragma once

#include "common.h"

namespace mclnf {

// The factors that all parameters of a module share.
template <typename S>
struct StepFactors {
    S rate;                            // SGD: lr; Adam: lr sqrt(1 - b2^t) / (1 - b1^t)
    S floor;                           // Adam: eps sqrt(1 - b2^t)
    S decay1, blend1, decay2, blend2;  // Adam: b1, 1 - b1, b2, 1 - b2
    S lam;
    S unscale = S(1);  // 1 / the scale of the loss that was differentiated
    S coupled = S(0);  // weight decay that is added to the gradient
    S shrink = S(1);   // 1 - lr times the decoupled weight decay
};

// What weight decay of a module with rate lr makes of the factors.
template <typename S>
MCLNF_HD inline void set_decay(StepFactors<S>& c, bool decoupled, double lr, double decay) {
    c.coupled = decoupled ? S(0) : static_cast<S>(decay);
    c.shrink = decoupled ? static_cast<S>(1 - lr * decay) : S(1);
}

// g + decay theta
template <typename S>
MCLNF_HD MCLNF_INLINE S decayed(const StepFactors<S>& c, S g, S p) {
    return g + c.coupled * p;
}

// The factors of a module that makes its step number t; the corrections in double: in float, 1 - 0.999^t is
// wrong in the fifth digit at t = 1.
template <typename S>
MCLNF_HD inline StepFactors<S> step_factors(bool adam, double t, double lr, double beta1, double beta2,
                                            double eps, double lam) {
    const double first = adam && beta1 > 0 ? -std::expm1(t * std::log(beta1)) : 1.0;
    const double root = adam && beta2 > 0 ? std::sqrt(-std::expm1(t * std::log(beta2))) : 1.0;
    return {static_cast<S>(lr * root / first),
            static_cast<S>(eps * root),
            static_cast<S>(beta1),
            static_cast<S>(1.0 - beta1),
            static_cast<S>(beta2),
            static_cast<S>(1.0 - beta2),
            static_cast<S>(lam)};
}

// g + lam F (theta - anchor)
template <typename S>
MCLNF_HD MCLNF_INLINE S pulled(const StepFactors<S>& c, S g, S p, S fisher, S anchor) {
    return (p - anchor) * fisher * c.lam + g;
}

template <typename S>
MCLNF_HD MCLNF_INLINE S sgd_step(const StepFactors<S>& c, S p, S g) {
    return p - c.rate * g;
}

// Algorithm 1 in its second form: the root of the second correction is in rate and floor, which saves a
// division.
template <typename S>
MCLNF_HD MCLNF_INLINE S adam_step(const StepFactors<S>& c, S p, S g, S& m, S& v) {
    // From the nearer end: with beta1 = 0, m + (g - m) would lose a gradient that is small beside the old
    // moment.
    const bool mostly_old = c.blend1 < S(0.5);
    const S from = mostly_old ? m : g, to = mostly_old ? g : m, by = mostly_old ? c.blend1 : c.decay1;
    m = from + by * (to - from);
    v = c.decay2 * v + c.blend2 * g * g;
    return p - c.rate * (m / (std::sqrt(v) + c.floor));
}

// Whether a step leaves finite numbers, known before it is made: `gradient` is the largest magnitude of the
// gradients with their pulls, and Adam squares it while SGD multiplies it.
template <typename S>
MCLNF_HD inline bool bounded_step(const StepFactors<S>& c, bool adam, S gradient, S most) {
    return adam ? gradient < std::sqrt(most) : c.rate * gradient < most / 2;
}

}  // namespace mclnf

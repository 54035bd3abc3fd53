// The optimizer step over a range of values, cloned for the instruction sets.
#include "step_range.h"

#include <algorithm>
#include <cstring>

#include "rays.h"

// Iterations do not depend on each other, even if two of the tensors are the same.
#if defined(__clang__)
#define MCLNF_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define MCLNF_INDEPENDENT _Pragma("GCC ivdep")
#else
#define MCLNF_INDEPENDENT
#endif

namespace mclnf {
namespace {

template <typename S, bool kAdam, bool kTrust>
MCLNF_INLINE void step_values(const StepFactors<S>& factors, const Streams<S>& t, int64_t n) {
    const StepFactors<S> c = factors;
    S *const p = t.p, *const m = t.m, *const v = t.v;
    const S *const g = t.g, *const fisher = t.fisher, *const anchor = t.anchor;
    MCLNF_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) {
        const S gradient = kTrust ? pulled(c, g[i], p[i], fisher[i], anchor[i]) : g[i];
        if (kAdam) {
            S m_new = m[i], v_new = v[i];
            p[i] = adam_step(c, p[i], gradient, m_new, v_new);
            m[i] = m_new;
            v[i] = v_new;
        } else {
            p[i] = sgd_step(c, p[i], gradient);
        }
    }
}

// As integers, of which the bits of infinity and NaN are the largest: a maximum of numbers would lose a NaN.
template <typename S, typename Bits>
MCLNF_INLINE S largest_of(const S* values, int64_t n) {
    constexpr Bits kMagnitude = static_cast<Bits>(-1) >> 1;
    Bits most = 0;
    for (int64_t i = 0; i < n; ++i) {
        Bits bits;
        std::memcpy(&bits, values + i, sizeof(S));
        most = std::max<Bits>(most, bits & kMagnitude);
    }
    S result;
    std::memcpy(&result, &most, sizeof(S));
    return result;
}

}  // namespace

// Clones can't be templates, hence one function per type.
#define MCLNF_STEP_RANGE(S, Bits)                                                           \
    MCLNF_CLONES void step_range(const StepFactors<S>& c, const Streams<S>& t, int64_t n) { \
        if (t.m && t.fisher) return step_values<S, true, true>(c, t, n);                    \
        if (t.m) return step_values<S, true, false>(c, t, n);                               \
        if (t.fisher) return step_values<S, false, true>(c, t, n);                          \
        step_values<S, false, false>(c, t, n);                                              \
    }                                                                                       \
    MCLNF_CLONES S largest(const S* values, int64_t n) { return largest_of<S, Bits>(values, n); }
MCLNF_STEP_RANGE(float, uint32_t)
MCLNF_STEP_RANGE(double, uint64_t)

}  // namespace mclnf

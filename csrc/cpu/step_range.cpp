// The optimizer step over a range of values, cloned for the instruction sets.
#include "step_range.h"

#include <algorithm>
#include <cstring>

#include "math/half.h"
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

// kHalf: kBf16 or kFp16 if the gradient is of that type and a copy of it is written; else kFp32.
template <typename S, bool kAdam, bool kTrust, bool kDecay, int kHalf>
MCLNF_INLINE void step_values(const StepFactors<S>& factors, const Streams<S>& t, int64_t n) {
    const StepFactors<S> c = factors;
    S *const p = t.p, *const m = t.m, *const v = t.v;
    const S *const g = t.g, *const fisher = t.fisher, *const anchor = t.anchor;
    uint16_t* const copy = t.copy;
    const uint16_t* const half_g = t.half_g;
    MCLNF_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) {
        S own;
        if constexpr (kHalf == kFp32)
            own = g[i] * c.unscale;
        else
            own = from_half<kHalf>(half_g[i]) * c.unscale;
        if (kDecay) own = decayed(c, own, p[i]);
        const S gradient = kTrust ? pulled(c, own, p[i], fisher[i], anchor[i]) : own;
        const S before = kDecay ? c.shrink * p[i] : p[i];
        if (kAdam) {
            S m_new = m[i], v_new = v[i];
            p[i] = adam_step(c, before, gradient, m_new, v_new);
            m[i] = m_new;
            v[i] = v_new;
        } else {
            p[i] = sgd_step(c, before, gradient);
        }
        if constexpr (kHalf != kFp32) copy[i] = to_half<kHalf>(p[i]);
    }
}

template <typename S, bool kDecay, int kHalf>
MCLNF_INLINE void step_kind(const StepFactors<S>& c, const Streams<S>& t, int64_t n) {
    if (t.m && t.fisher) return step_values<S, true, true, kDecay, kHalf>(c, t, n);
    if (t.m) return step_values<S, true, false, kDecay, kHalf>(c, t, n);
    if (t.fisher) return step_values<S, false, true, kDecay, kHalf>(c, t, n);
    step_values<S, false, false, kDecay, kHalf>(c, t, n);
}

template <typename S, int kHalf>
MCLNF_INLINE void step_any(const StepFactors<S>& c, const Streams<S>& t, int64_t n) {
    if (c.coupled != 0 || c.shrink != 1) return step_kind<S, true, kHalf>(c, t, n);
    step_kind<S, false, kHalf>(c, t, n);
}

// By the bits without the sign, a block at a time: most blocks of a gradient end the search.
template <typename Bits>
MCLNF_INLINE bool nonzero_bits(const void* values, int64_t n) {
    constexpr int64_t kBlock = 512;
    for (int64_t first = 0; first < n; first += kBlock) {
        const int64_t count = std::min(kBlock, n - first);
        Bits all = 0, block[kBlock];
        std::memcpy(block, static_cast<const Bits*>(values) + first,
                    static_cast<size_t>(count) * sizeof(Bits));
        for (int64_t i = 0; i < count; ++i) all |= block[i];
        if (static_cast<Bits>(all << 1) != 0) return true;
    }
    return false;
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
        step_any<S, kFp32>(c, t, n);                                                        \
    }                                                                                       \
    MCLNF_CLONES S largest(const S* values, int64_t n) { return largest_of<S, Bits>(values, n); }
MCLNF_STEP_RANGE(float, uint32_t)
MCLNF_STEP_RANGE(double, uint64_t)

MCLNF_CLONES bool any_nonzero(const float* values, int64_t n) { return nonzero_bits<uint32_t>(values, n); }
MCLNF_CLONES bool any_nonzero(const double* values, int64_t n) { return nonzero_bits<uint64_t>(values, n); }
MCLNF_CLONES bool any_nonzero(const uint16_t* values, int64_t n) { return nonzero_bits<uint16_t>(values, n); }

MCLNF_CLONES void step_range_bf16(const StepFactors<float>& c, const Streams<float>& t, int64_t n) {
    step_any<float, kBf16>(c, t, n);
}
MCLNF_CLONES void step_range_fp16(const StepFactors<float>& c, const Streams<float>& t, int64_t n) {
    step_any<float, kFp16>(c, t, n);
}

}  // namespace mclnf

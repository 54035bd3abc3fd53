// Densities and colors of samples from a field's outputs, side by side so that the loops vectorize.
#pragma once

#include <cmath>
#include <cstdint>

#include "math/exponential.h"
#include "names.h"
#include "rays.h"

namespace mclnf {
namespace {

constexpr int kPoints = 512;  // samples that are evaluated side by side

template <class S>
MCLNF_INLINE S head(int kind, S x) {
    switch (kind) {
        case kSoftplus:
            return (x > S(0) ? x : S(0)) + std::log1p(exp_of(x > S(0) ? -x : x));
        case kTanh:
            return std::tanh(x);
        default:
            return x;
    }
}

// The usual kinds in loops of their own, which vectorize.
template <class S>
MCLNF_INLINE void heads(int kind, S* x, int n) {
    if (kind == kRelu)
        for (int i = 0; i < n; ++i) x[i] = x[i] < S(0) ? S(0) : x[i];  // NaN stays
    else if (kind == kExp)
        for (int i = 0; i < n; ++i) x[i] = exp_of(x[i]);
    else if (kind == kSigmoid)
        for (int i = 0; i < n; ++i) x[i] = S(1) / (S(1) + exp_of(-x[i]));
    else if (kind != kNone)
        for (int i = 0; i < n; ++i) x[i] = head(kind, x[i]);
}

// What is side by side for the samples of a turn, a row of kPoints each.
template <class S>
struct Shaded {
    S* density;        // then the optical depth of each sample's interval
    S *alpha, *color;  // color: a row per channel
};

// From the outputs y [n, 1 + channels] and the lengths of the samples' intervals.
template <class S>
MCLNF_INLINE void shade_samples(const S* y, const S* length, int n, int channels, int density, int color,
                                S max_raw_density, const Shaded<S>& to) {
    for (int i = 0; i < n; ++i) {
        const S* own = y + static_cast<int64_t>(i) * (channels + 1);
        to.density[i] = own[0] > max_raw_density ? max_raw_density : own[0];
        for (int c = 0; c < channels; ++c) to.color[c * kPoints + i] = own[c + 1];
    }
    heads(density, to.density, n);
    for (int c = 0; c < channels; ++c) heads(color, to.color + c * kPoints, n);
    for (int i = 0; i < n; ++i) {
        to.density[i] *= length[i];
        to.alpha[i] = -expm1_of(-to.density[i]);
    }
}

// Clones can't be templates, hence one function per type.
#define MCLNF_RENDER(S)                                                                               \
    MCLNF_CLONES void shade(const S* y, const S* length, int n, int channels, int density, int color, \
                            S max_raw_density, const Shaded<S>& to) {                                 \
        shade_samples(y, length, n, channels, density, color, max_raw_density, to);                   \
    }                                                                                                 \
    MCLNF_CLONES void attenuate(S* depth, int n) {                                                    \
        for (int i = 0; i < n; ++i) depth[i] = exp_of(-depth[i]);                                     \
    }
MCLNF_RENDER(float)
MCLNF_RENDER(double)

}  // namespace
}  // namespace mclnf

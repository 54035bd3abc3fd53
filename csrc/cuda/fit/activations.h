// Activations and their derivatives in the kernel of `bank_fit`.
#pragma once

#include "names.h"
#include "numbers.h"

namespace mclnf {

// z -> a(z) in its place and a'(z)
template <typename S, int N>
__device__ inline void activate(int kind, S w0, S (&values)[N], S (&derivatives)[N]) {
    const auto each = [&](const auto& f) {
        MCLNF_UNROLL
        for (int n = 0; n < N; ++n) f(values[n], derivatives[n]);
    };
    switch (kind) {
        case kRelu:
            return each([](S& z, S& derivative) {
                derivative = z > S(0) ? S(1) : S(0);
                // Written so that NaN stays NaN: a maximum would hide it behind a 0.
                z = z < S(0) ? S(0) : z;
            });
        case kSine: {
            bool all_near = true;
            each([&](S& z, S&) {
                z *= w0;
                all_near = all_near && near(z);
            });
            // Side by side if none is far: the bits are the same.
            if (all_near)
                each([](S& z, S& cosine) { near_sine(z, z, cosine); });
            else
                each([](S& z, S& cosine) { sine_of(z, z, cosine); });
            return each([&](S&, S& derivative) { derivative *= w0; });
        }
        case kSoftplus:
            return each([](S& z, S& derivative) {
                // Of -|z|, whose exponential can't overflow.
                const S u = std::exp(z < S(0) ? z : -z), q = S(1) / (S(1) + u);
                derivative = z < S(0) ? u * q : q;
                z = (z > S(0) ? z : S(0)) + std::log1p(u);
            });
        case kTanh:
            return each([](S& z, S& derivative) {
                z = std::tanh(z);
                derivative = S(1) - z * z;
            });
        case kSigmoid:
            return each([](S& z, S& derivative) {
                const S u = std::exp(z < S(0) ? z : -z), q = S(1) / (S(1) + u);
                derivative = u * q * q;
                z = z < S(0) ? u * q : q;
            });
        case kExp:
            return each([](S& z, S& derivative) { z = derivative = std::exp(z); });
        default:
            return each([](S&, S& derivative) { derivative = S(1); });
    }
}

}  // namespace mclnf

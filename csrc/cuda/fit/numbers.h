// Arithmetic of single numbers in the kernel of `bank_fit`, and neighboring numbers.
#pragma once

#include <limits>

#include "cuda/launch.h"
#include "math/common.h"

namespace mclnf {

__device__ inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

template <typename S>
constexpr S kMost = std::numeric_limits<S>::max();

// The larger magnitude; infinity once one of them is no number.
template <typename S>
__device__ inline S larger(S most, S value) {
    const S size = value < S(0) ? -value : value;
    if (!(size <= kMost<S>)) return S(INFINITY);
    return size > most ? size : most;
}

// Neighboring numbers, read or written at once.
template <typename S, int N>
struct alignas(N * sizeof(S) < 16 ? N * sizeof(S) : 16) Chunk {
    S v[N];
};
template <int N, typename S>
__device__ inline Chunk<S, N> read_chunk(const S* p) {
    return *reinterpret_cast<const Chunk<S, N>*>(p);
}
template <int N, typename S>
__device__ inline void write_chunk(S* p, const Chunk<S, N>& chunk) {
    *reinterpret_cast<Chunk<S, N>*>(p) = chunk;
}

// Angles of which the next function is exact to rounding.
__device__ inline bool near(float x) { return x <= 32768.0f && x >= -32768.0f; }
__device__ inline bool near(double) { return false; }

// sin and cos as the CPU's kernels compute them, by the fused reduction in single precision: 27 instructions
// on sm_90 and no branch, where the library takes 34 with a conversion at a quarter of the rate, and a
// branch.
__device__ inline void near_sine(float x, float& s, float& c) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float shifted = fused(x, 0.636619772f, magic), n = shifted - magic;
    const unsigned q = __float_as_uint(shifted);
    float r = fused(n, -1.57079637f, x);
    r = fused(n, 4.37113883e-8f, r);
    r = fused(n, 1.71512449e-15f, r);
    const float z = r * r;
    float ps = fused(2.7525562e-6f, z, -1.9840874e-4f), pc = fused(2.4433157e-5f, z, -1.3887316e-3f);
    ps = fused(ps, z, 8.3333310e-3f);
    pc = fused(pc, z, 4.1666646e-2f);
    ps = fused(ps, z, -1.6666667e-1f);
    ps = fused(ps * z, r, r);
    pc = fused(pc * z, z, fused(z, -0.5f, 1.0f));
    const bool odd = q & 1;
    // Bit 1 of q, and of q + 1, is the sign.
    s = __uint_as_float(__float_as_uint(odd ? pc : ps) ^ (q << 30 & 0x80000000u));
    c = __uint_as_float(__float_as_uint(odd ? ps : pc) ^ ((q + 1) << 30 & 0x80000000u));
}
__device__ inline void near_sine(double, double&, double&) {}

// The library's for large angles and for no numbers.
__device__ inline void sine_of(float x, float& s, float& c) {
    near(x) ? near_sine(x, s, c) : sincosf(x, &s, &c);
}
__device__ inline void sine_of(double x, double& s, double& c) { sincos(x, &s, &c); }

}  // namespace mclnf

// The bank's tile kernels over the dot product of bf16 pairs: avx512_bf16.
#include "bank_table.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "math/spherical.h"

#define MCLNF_VBYTES 64
#ifdef __clang__
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#ifdef MCLNF_EMULATE
#pragma GCC target("avx2,fma")
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")
#endif
#endif
namespace mclnf {
namespace avx512_bf16 {
// clang-format off: each is written in terms of those before it
#include "kernels/simd.h"
#include "kernels/elementary.h"
#include "kernels/panel.h"
#include "kernels/epilogue.h"
#include "kernels/gemm_tile.h"
#include "kernels/transpose.h"
#include "kernels/weight_gradient.h"
#include "kernels/arena.h"
#include "kernels/bank_tile.h"
#include "kernels/activation_tile.h"
#include "kernels/encoding_tile.h"
#include "kernels/bank_layers.h"
#include "kernels/bf16_tile.h"
#include "kernels/bf16_weight_gradient.h"
#include "kernels/bf16_kernels.h"
// clang-format on
const BankTable<Bf16> table = {"avx512_bf16", Panel<float>::lanes, &bf16_forward, &bf16_backward, nullptr};
}  // namespace avx512_bf16
}  // namespace mclnf
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

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
#pragma GCC push_options
#ifdef MCLNF_EMULATE
#pragma GCC target("avx2,fma")
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")
#endif
namespace mclnf {
namespace avx512_bf16 {
// clang-format off: each is written in terms of those before it
#include "simd.h"
#include "elementary.h"
#include "panel.h"
#include "epilogue.h"
#include "gemm_tile.h"
#include "transpose.h"
#include "weight_gradient.h"
#include "arena.h"
#include "bank_tile.h"
#include "activation_tile.h"
#include "encoding_tile.h"
#include "bank_layers.h"
#include "bf16_tile.h"
#include "bf16_weight_gradient.h"
#include "bf16_kernels.h"
// clang-format on
const BankTable<Bf16> table = {"avx512_bf16", Panel<float>::lanes, &bf16_forward, &bf16_backward, nullptr};
}  // namespace avx512_bf16
}  // namespace mclnf
#pragma GCC pop_options
#endif

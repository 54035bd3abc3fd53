// The bank's tile kernels for one instruction set: avx512.
#include "bank_table.h"
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__) && defined(MCLNF_EMULATE)
#error "MCLNF_EMULATE needs GCC"
#endif

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "math/spherical.h"

#define MCLNF_VBYTES 64
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#ifdef MCLNF_EMULATE
#pragma GCC target("avx2,fma")
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#endif
namespace mclnf {
namespace avx512 {
#include "kernels/bank_sweeps.h"
const BankTable<float> table_float = make_table<float>("avx512");
// Double precision, which checks of derivatives use, has no kernels here: those for AVX2 serve
// (bank_mlp.cpp).
}  // namespace avx512
}  // namespace mclnf
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

// The bank's tile kernels for one instruction set: avx2.
#include "bank_table.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "math/spherical.h"

#define MCLNF_VBYTES 32
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace mclnf {
namespace avx2 {
// clang-format off: each is written in terms of those before it
#include "simd.h"
#include "gemm_tile.h"
#include "bank_tile.h"
#include "narrow_sums.h"
#include "bank_kernels.h"
#include "ray_errors.h"
#include "bank_backward.h"
#include "bank_second.h"
// clang-format on
const BankTable<float> table_float = make_table<float>("avx2");
const BankTable<double> table_double = make_table<double>("avx2");
}  // namespace avx2
}  // namespace mclnf
#pragma GCC pop_options
#endif

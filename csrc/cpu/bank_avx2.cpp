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
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace mclnf {
namespace avx2 {
#include "kernels/bank_sweeps.h"
const BankTable<float> table_float = make_table<float>("avx2");
const BankTable<double> table_double = make_table<double>("avx2");
}  // namespace avx2
}  // namespace mclnf
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

// The bank's tile kernels for one instruction set: portable.
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "bank_table.h"
#include "math/spherical.h"

#define MCLNF_VBYTES 16

namespace mclnf {
namespace portable {
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
const BankTable<float> table_float = make_table<float>("portable");
const BankTable<double> table_double = make_table<double>("portable");
}  // namespace portable
}  // namespace mclnf

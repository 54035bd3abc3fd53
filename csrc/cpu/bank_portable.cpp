// The bank's tile kernels for one instruction set: portable.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "bank_table.h"
#include "math/spherical.h"

#define MCLNF_VBYTES 16

namespace mclnf {
namespace portable {
#include "simd.h"
// The order matters: the micro-kernel and the layers are written in terms of the vectors above.
#include "gemm_tile.h"
// The tile sweeps use both.
#include "bank_kernels.h"
const BankTable<float> table_float = make_table<float>("portable");
const BankTable<double> table_double = make_table<double>("portable");
}  // namespace portable
}  // namespace mclnf

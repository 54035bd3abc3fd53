// The bank's tile kernels for one instruction set: neon.
#include "bank_table.h"
#if defined(MCLNF_HAS_NEON)
#include <arm_neon.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "math/spherical.h"

#define MCLNF_VBYTES 16
#define MCLNF_NEON 1

namespace mclnf {
namespace neon {
#include "kernels/bank_sweeps.h"
const BankTable<float> table_float = make_table<float>("neon");
const BankTable<double> table_double = make_table<double>("neon");
}  // namespace neon
}  // namespace mclnf
#endif

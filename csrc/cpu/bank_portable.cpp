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
#include "bank_sweeps.h"
const BankTable<float> table_float = make_table<float>("portable");
const BankTable<double> table_double = make_table<double>("portable");
}  // namespace portable
}  // namespace mclnf

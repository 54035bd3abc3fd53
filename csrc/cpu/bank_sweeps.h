// The bank's kernels of one instruction set, in the order in which they are written in terms of each other.
//
// Included once per instruction set inside its namespace and target region (see bank_avx2.cpp), as are the
// files named here: hence no include guard.
// clang-format off
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
#include "bank_forward.h"
#include "narrow_gradient.h"
#include "squared_error.h"
#include "ray_errors.h"
#include "fisher_tile.h"
#include "bank_backward.h"
#include "bank_second.h"
// clang-format on

template <class S>
static constexpr BankTable<S> make_table(const char* name) {
    return {name, Panel<S>::lanes, &forward<S>, &backward<S>, &second<S>};
}

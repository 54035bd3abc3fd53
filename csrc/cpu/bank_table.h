// The tile kernels of the bank, one table per instruction set; the drivers (bank_mlp.cpp, fisher.cpp) split
// the work over modules and points and know nothing of vectors.
#pragma once

#include <cstdint>

#include "net.h"

namespace mclnf {

// Parameters, or things shaped like them, of one module: a pointer a layer.
template <class S>
struct Slices {
    const S* const* weight = nullptr;
    const S* const* bias = nullptr;
};
template <class S>
struct Sums {
    S* const* weight = nullptr;
    S* const* bias = nullptr;
    explicit operator bool() const { return weight != nullptr; }
};

template <class S>
struct BankTable {
    const char* name;
    // y [n, out] = f(x [n, in])
    void (*forward)(const Net&, Slices<S>, const S* x, int64_t n, S* y);
    // The gradients of <grad_y, f>: grad_x [n, in] is written where asked for; every `Sums` is added to.
    // scores [n], where asked for: sum over parameters of inverse * (the point's own gradient)^2.
    // squares: sum over points of (the point's own gradient)^2.
    void (*backward)(const Net&, Slices<S>, const S* x, int64_t n, const S* grad_y, S* grad_x, Sums<S> grads,
                     Slices<S> inverse, S* scores, Sums<S> squares);
    // Directional derivative of all of the above along (tangent_x, tangent): the gradient of
    // <grad_y, df/d(x, parameters) . tangent> with respect to x, the parameters and grad_y.
    void (*second)(const Net&, Slices<S>, const S* x, int64_t n, const S* grad_y, const S* tangent_x,
                   Slices<S> tangent, S* grad_x, Sums<S> grads, S* grad_grad_y);
};

// The fastest set that this processor has, or the one that MCLNF_FAST_ISA names (avx512, avx2, portable).
template <class S>
const BankTable<S>& bank_table();
template <>
const BankTable<float>& bank_table<float>();
template <>
const BankTable<double>& bank_table<double>();

namespace avx512 {
extern const BankTable<float> table_float;
extern const BankTable<double> table_double;
}  // namespace avx512
namespace avx2 {
extern const BankTable<float> table_float;
extern const BankTable<double> table_double;
}  // namespace avx2
namespace portable {
extern const BankTable<float> table_float;
extern const BankTable<double> table_double;
}  // namespace portable

}  // namespace mclnf

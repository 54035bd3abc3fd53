// The tile kernels of the bank, one table per instruction set; the drivers
// (bank_mlp.cpp, fisher.cpp) split the work over modules and points and know
// nothing of vectors.
#pragma once

#include <cstdint>

#include "bf16.h"
#include "net.h"

namespace mclnf {

// Parameters, or things shaped like them, of one module: a pointer a layer.
template <class S>
struct Slices {
    const S* const* weight = nullptr;
    const S* const* bias = nullptr;
    explicit operator bool() const { return weight != nullptr; }
};
template <class S>
struct Sums {
    S* const* weight = nullptr;
    S* const* bias = nullptr;
    bool stream = false;  // what is written is not read soon
    explicit operator bool() const { return weight != nullptr; }
};

// What a backward sweep gives beside the gradients; nothing of it by default.
template <class S>
struct FisherSweep {
    Slices<S> inverse;    // 1 / (fisher + damping); needed for scores
    S* scores = nullptr;  // one a sample: sum over parameters of inverse * (the
                          // sample's own gradient)^2
    Sums<S> squares;      // sum over samples of (the sample's own gradient)^2
    // Null: each point is a sample. Otherwise sample s has the points segments[s]
    // ... segments[s + 1] - 1 of the run.
    const int64_t* segments = nullptr;
    int64_t count = 0;

    explicit operator bool() const { return scores || squares; }
};

// What sums over points are kept in: bf16 ones in fp32.
template <class S>
struct Wide {
    using type = S;
};
template <>
struct Wide<Bf16> {
    using type = float;
};

template <class S>
struct BankTable {
    using Sum = typename Wide<S>::type;
    const char* name;
    // y [n, out] = f(x [n, in])
    void (*forward)(const Net&, Slices<S>, const S* x, int64_t n, S* y);
    // The gradients of <grad_y, f>, n > 0: each is written where asked for,
    // whatever was there. No Fisher sweep in bf16.
    void (*backward)(const Net&, Slices<S>, const S* x, int64_t n, const S* grad_y, S* grad_x,
                     Sums<Sum> grads, const FisherSweep<Sum>&);
    // Directional derivative of the backward along (tangent_x, tangent): the
    // gradient of <grad_y, df/d(x, parameters) . tangent> with respect to x, the
    // parameters and grad_y.
    void (*second)(const Net&, Slices<S>, const S* x, int64_t n, const S* grad_y, const S* tangent_x,
                   Slices<S> tangent, S* grad_x, Sums<Sum> grads, S* grad_grad_y);
};

// The fastest set that this processor has, or the one that MCLNF_FAST_ISA names
// (avx512, avx2, portable).
template <class S>
const BankTable<S>& bank_table();
template <>
const BankTable<float>& bank_table<float>();
template <>
const BankTable<double>& bank_table<double>();
// Over the dot product of bf16 pairs where bank_table<float>() is avx512 and the
// processor has that instruction, a fast one (or as MCLNF_FAST_BF16_DOT says);
// otherwise bank_table<float>() between conversions.
template <>
const BankTable<Bf16>& bank_table<Bf16>();

namespace avx512 {
extern const BankTable<float> table_float;
}  // namespace avx512
namespace avx512_bf16 {
extern const BankTable<Bf16> table;  // without `second`
}  // namespace avx512_bf16
namespace avx2 {
extern const BankTable<float> table_float;
extern const BankTable<double> table_double;
}  // namespace avx2
namespace portable {
extern const BankTable<float> table_float;
extern const BankTable<double> table_double;
}  // namespace portable

}  // namespace mclnf

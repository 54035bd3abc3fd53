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
    const S* const* next = nullptr;  // the weights of the module that comes after, where that is known
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

// The pixels of rays whose points a run holds, and what they should be. A point has an interval of its ray
// and 4 outputs, a raw density (`density_row`, 0 or 3) and three raw colours, which are sigmoids of it.
template <class S>
struct Pixels {
    const int64_t* rays = nullptr;  // ray r has the points rays[r] ... rays[r + 1] - 1 of the run
    int64_t count = 0;
    const S* width = nullptr;       // [n]
    const S* target = nullptr;      // [count, 3]
    const S* weight = nullptr;      // [count]; null: ones
    const S* background = nullptr;  // [3]; null: black
    bool last_behind = false;       // the colour of a ray's last point is its background
    bool hold_last = false;         // the density of a ray's last point gets no gradient
    bool exponential = false;       // density is exp(min(raw, most)), otherwise max(raw, 0)
    int density_row = 3;
    S most = S(0);
};

// What a backward sweep starts from: the gradient of the outputs, or a squared error of them or of pixels.
template <class S>
struct Start {
    const S* grad_y = nullptr;  // [n, out]; null: that of the squared error
    const S* target = nullptr;  // [n, out]
    const S* weight = nullptr;  // [n]; null: ones
    S scale = S(1);
    const Pixels<S>* pixels = nullptr;  // in the place of target and weight; backward alone
    double* error = nullptr;  // backward: receives sum over points of scale * weight * |y - target|^2
    // What `forward` kept of the same points; null: computed again.
    const S* kept = nullptr;
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
    int lanes;  // points of a panel: what `forward` keeps is kept_values(net, n, lanes) values
    // y [n, out] = f(x [n, in]). keep: where the hidden activations go, or null. None in bf16.
    void (*forward)(const Net&, Slices<S>, const S* x, int64_t n, S* y, S* keep);
    // The gradients of <grad_y, f>, n > 0: each is written where asked for,
    // whatever was there. No Fisher sweep, no squared error in bf16.
    void (*backward)(const Net&, Slices<S>, const S* x, int64_t n, const Start<S>&, S* grad_x,
                     Sums<Sum> grads, const FisherSweep<Sum>&);
    // Directional derivative of the backward along (tangent_x, tangent): the
    // gradient of <grad_y, df/d(x, parameters) . tangent> with respect to x, the
    // parameters and grad_y; of a squared error, the product of its Hessian with
    // the direction. tangent_x null: zeros; grad_x and grad_grad_y where asked for.
    void (*second)(const Net&, Slices<S>, const S* x, int64_t n, const Start<S>&, const S* tangent_x,
                   Slices<S> tangent, S* grad_x, Sums<Sum> grads, S* grad_grad_y);
};

// Values that `forward` keeps of a run; 0 where it can't: what a hidden layer's derivative needs is in its
// values for relu and for none alone.
inline int64_t kept_values(const Net& net, int64_t n, int lanes) {
    if (net.activation != kRelu && net.activation != kNone) return 0;
    int64_t rows = 0;
    for (size_t l = 0; l + 1 < net.layers.size(); ++l) rows += net.layers[l].out;
    return (n + lanes - 1) / lanes * lanes * rows;
}

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

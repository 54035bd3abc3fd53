// The tile kernels of the bank, one table of functions per instruction set. The drivers (bank_mlp.cpp,
// fisher.cpp, ...) split the work over modules and points and know nothing of vectors: a table per set, and
// not one build per set, lets one library serve every processor.
#pragma once

#include <cstdint>
#include <type_traits>

#include "bf16.h"
#include "net.h"

// The registers of 128 bits of a 64-bit ARM processor, which holds its bytes in the order of the others.
#if defined(__aarch64__) && !defined(__AARCH64EB__)
#define MCLNF_HAS_NEON 1
#endif

namespace mclnf {

// The type of points, outputs and their gradients, of sums over points, and of the first layer's weights and
// all biases: fp32 beside bf16 weights. A coordinate's 8 bits would be all that an encoding of many octaves
// starts from, and a sum of 256 ones would exhaust them.
template <class S>
struct ValueOf {
    using type = S;
};
template <>
struct ValueOf<Bf16> {
    using type = float;
};
template <class S>
using Value = typename ValueOf<S>::type;
template <class S>
constexpr bool kMixed = !std::is_same_v<S, Value<S>>;

// The parameters, or tensors shaped like them, of one module: a pointer per layer.
template <class S>
struct Parameters {
    const S* const* weight = nullptr;  // the first is null if kMixed
    const Value<S>* const* bias = nullptr;
    const Value<S>* first = nullptr;  // the first layer's weights
    // The weights of the module that comes next on this thread, if known: prefetched during the arithmetic.
    const S* const* next_weight = nullptr;
    explicit operator bool() const { return weight != nullptr; }
};
template <class S>
struct Gradients {
    S* const* weight = nullptr;
    S* const* bias = nullptr;
    bool stream = false;  // past the caches: the values are not read soon
    explicit operator bool() const { return weight != nullptr; }
};

// One module and a run of its points.
template <class S>
struct ModulePoints {
    Parameters<S> parameters;
    const Value<S>* x = nullptr;  // [n, in]
    int64_t n = 0;
    // Backward: the activations that `forward` saved of the same points; null: computed again.
    const S* saved = nullptr;
};

// The results of a backward sweep beside the gradients; none of them by default.
template <class S>
struct FisherSweep {
    Parameters<S> inverse;  // 1 / (fisher + damping); needed for scores
    S* scores = nullptr;    // one per sample: sum over parameters of inverse * (the sample's own gradient)^2
    Gradients<S> squares;   // sum over samples of (the sample's own gradient)^2
    // Null: each point is a sample. Otherwise sample s has the points segments[s] ... segments[s + 1] - 1 of
    // the run.
    const int64_t* segments = nullptr;
    int64_t count = 0;

    explicit operator bool() const { return scores || squares; }
};

// The pixels of rays whose points a run holds, and their targets. A point has a sample spacing along its ray
// and 4 outputs, a raw density (`density_row`, 0 or 3) and three raw colors, which are sigmoids of them.
template <class S>
struct Pixels {
    const int64_t* rays = nullptr;  // ray r has the points rays[r] ... rays[r + 1] - 1 of the run
    int64_t count = 0;
    const S* deltas = nullptr;      // sample spacing [n]
    const S* target = nullptr;      // [count, 3]
    const S* weight = nullptr;      // [count]; null: ones
    const S* background = nullptr;  // [3]; null: black
    bool last_behind = false;       // the color of a ray's last point is its background
    bool hold_last = false;         // the density of a ray's last point gets no gradient
    bool exponential = false;       // density is exp(min(raw, max_raw_density)), otherwise max(raw, 0)
    int density_row = 3;
    S max_raw_density = S(0);
};

// The output gradient that a backward sweep begins with: given, or that of a squared error of the outputs or
// of pixels.
template <class S>
struct OutputGradient {
    const Value<S>* grad_y = nullptr;  // [n, out]; null: that of the squared error
    const S* target = nullptr;         // [n, out]
    const S* weight = nullptr;         // [n]; null: ones
    S scale = S(1);
    const Pixels<S>* pixels = nullptr;  // in the place of target and weight; not in `second`
};

// The memory that a backward sweep writes; null: not asked for.
template <class S>
struct BackwardResults {
    Value<S>* grad_x = nullptr;    // [n, in]
    Gradients<Value<S>> grads;     // written, whatever was there
    FisherSweep<Value<S>> fisher;  // none in bf16
    double* error = nullptr;       // sum over points of scale * weight * |y - target|^2
};

// A direction of the inputs and parameters, and the derivatives along it.
template <class S>
struct Tangents {
    const Value<S>* x = nullptr;  // [n, in]; null: zeros
    Parameters<S> parameters;
};
template <class S>
struct SecondResults {
    Value<S>* grad_x = nullptr;
    Gradients<Value<S>> grads;
    Value<S>* grad_grad_y = nullptr;
};

template <class S>
struct BankTable {
    const char* name;
    int lanes;  // points of a panel: `forward` saves saved_values(net, n, lanes) values
    // y [n, out] = f(x). saved: memory for the hidden activations, or null; null in bf16.
    void (*forward)(const Net&, const ModulePoints<S>&, Value<S>* y, S* saved);
    // The gradients of <output gradient, f>, n > 0. No Fisher sweep and no squared error in bf16.
    void (*backward)(const Net&, const ModulePoints<S>&, const OutputGradient<S>&, const BackwardResults<S>&);
    // Directional derivative of the backward along the tangents: the gradient of
    // <grad_y, df/d(x, parameters) . tangents> with respect to x, the parameters and grad_y; of a squared
    // error, the product of its Hessian with the direction.
    void (*second)(const Net&, const ModulePoints<S>&, const OutputGradient<S>&, const Tangents<S>&,
                   const SecondResults<S>&);
};

// Values that `forward` saves of a run; 0 if it can't: only for relu and none does a hidden layer's value
// hold all that its derivative needs.
inline int64_t saved_values(const Net& net, int64_t n, int lanes) {
    if (!derivative_in_value(net.activation)) return 0;
    int64_t rows = 0;
    for (size_t l = 0; l + 1 < net.layers.size(); ++l) rows += net.layers[l].out;
    return (n + lanes - 1) / lanes * lanes * rows;
}

// The fastest set that this processor has, or the one that MCLNF_FAST_ISA names
// (avx512, avx2, neon, portable).
template <class S>
const BankTable<S>& bank_table();
template <>
const BankTable<float>& bank_table<float>();
template <>
const BankTable<double>& bank_table<double>();
// Over the dot product of bf16 pairs if bank_table<float>() is avx512 and the processor has that instruction,
// a fast one (or as MCLNF_FAST_BF16_DOT says); otherwise bank_table<float>() between conversions.
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
namespace neon {
extern const BankTable<float> table_float;
extern const BankTable<double> table_double;
}  // namespace neon
namespace portable {
extern const BankTable<float> table_float;
extern const BankTable<double> table_double;
}  // namespace portable

}  // namespace mclnf

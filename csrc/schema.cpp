// Every op's signature: the list of what the engine can do. Kernels are in cpu/ and cuda/, derivatives and
// shape functions in mclnf_fast/ops.
#include <torch/csrc/stable/library.h>

#include "schema_grid.h"
#include "schema_render.h"

namespace {

// One bank of M modules: x [N, in_dim] grouped by module, offsets [M + 1], weights [M, in, out] and biases
// [M, out] a layer, then the network as FieldSpec.packed gives it.
#define BANK "Tensor x, Tensor offsets, Tensor[] weights, Tensor[] biases"
#define NET "int[] net_ints, float[] net_floats"

constexpr const char* kBankSchemas[] = {
    "bank_mlp_fwd(" BANK ", " NET ") -> Tensor",
    // y, and `values` activations of the hidden layers that the backward need not compute again
    "bank_mlp_fwd_keep(" BANK ", " NET ", int values) -> (Tensor, Tensor)",
    "bank_mlp_bwd(" BANK ", Tensor grad_y, " NET
    ", bool need_x, bool need_params, Tensor? kept) -> (Tensor, Tensor[], Tensor[])",
    "bank_mlp_bwd_bwd(" BANK
    ", Tensor grad_y, Tensor? tangent_x, Tensor[] tangent_weights, Tensor[] tangent_biases, " NET
    ", bool need_x) -> (Tensor, Tensor[], Tensor[], Tensor)",
    // loss [M]: the sum, or with `mean` the mean over points and outputs, of weight [N] times the squared
    // error; with need_params, its gradients
    "bank_mse_fwd(" BANK ", Tensor target, Tensor? weight, " NET
    ", bool mean, bool need_params) -> (Tensor, Tensor[], Tensor[])",
    // the gradients of <cotangent [M], loss>; the known ones (or none) are those for ones
    "bank_mse_bwd(" BANK
    ", Tensor target, Tensor? weight, Tensor cotangent, Tensor[] known_weights, "
    "Tensor[] known_biases, " NET ", bool mean) -> (Tensor[], Tensor[])",
    "bank_mse_bwd_bwd(" BANK
    ", Tensor target, Tensor? weight, Tensor cotangent, Tensor[] tangent_weights, Tensor[] "
    "tangent_biases, " NET ", bool mean) -> (Tensor[], Tensor[])",
    // loss [M]: the sum, or with `mean` the mean over rays and channels, of ray_weight [R] times the squared
    // error of pixels that the points of rays are composited to. rays int64 [R + 1]: where each one's points
    // begin; ray_offsets int64 [M + 1]; widths [N]; target [R, 3]; background [3]. With need_params, its
    // gradients.
    "bank_ray_mse_fwd(" BANK
    ", Tensor rays, Tensor ray_offsets, Tensor widths, Tensor target, Tensor? ray_weight, Tensor? "
    "background, " NET
    ", bool last_behind, bool hold_last, bool exponential, bool density_first, float most_raw, bool mean, "
    "bool need_params) -> (Tensor, Tensor[], Tensor[])",
    "fisher_points(" BANK
    ", Tensor grad_y, Tensor[] fisher_weights, Tensor[] fisher_biases, float damping, " NET
    ", bool sums) -> (Tensor, Tensor[], Tensor[], Tensor[], Tensor[])",
    "fisher_segments(" BANK
    ", Tensor grad_y, Tensor segments, Tensor segment_offsets, Tensor[] fisher_weights, "
    "Tensor[] fisher_biases, float damping, " NET
    ", bool sums) -> (Tensor, Tensor[], Tensor[], Tensor[], Tensor[])",
    // In place: params, exp_avg, exp_avg_sq (one tensor [M, ...] each) and step float64 [M]. lr float64 [M],
    // or None: lr_value; active bool [M], or None: all. exp_avg and exp_avg_sq are empty for SGD, fisher and
    // anchor where lam = 0.
    "bank_step(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avg, Tensor(c!)[] exp_avg_sq, "
    "Tensor(d!) step, Tensor? lr, float lr_value, Tensor? active, bool adam, float beta1, float beta2, "
    "float eps, float lam, Tensor[] fisher, Tensor[] anchor) -> ()",
    "cpu_instruction_set() -> str",
    // GFLOP/s of a loop of multiply-adds on all threads, for benchmarks; 0 where bf16 has no dot instruction
    "cpu_fma_limit(float seconds, bool bf16=False) -> float",
    "cpu_bf16_dot() -> bool",  // whether bf16 banks run on the dot product instruction of bf16 pairs
};

}  // namespace

// Under another name, the kernels of csrc/cuda emulated on the CPU (tests/ops/cuda_emulation).
#ifndef MCLNF_LIBRARY
#define MCLNF_LIBRARY mclnf_fast
#endif

STABLE_TORCH_LIBRARY(MCLNF_LIBRARY, m) {
    for (const char* schema : kBankSchemas) m.def(schema);
    for (const char* schema : kRenderSchemas) m.def(schema);
    for (const char* schema : kGridSchemas) m.def(schema);
}

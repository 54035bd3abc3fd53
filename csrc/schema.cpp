// Every op's signature: the list of all that the engine can do. Kernels are in cpu/ and cuda/, derivatives
// and shape functions in mclnf_fast/ops.
//
// One list in one file: whoever adds an op, or reads which arguments it takes, looks here and nowhere else.
// Names of arguments are part of the contract, because Python calls ops by them and saved graphs hold them.
#include <torch/csrc/stable/library.h>

namespace {

// One bank of M modules: x [N, in_dim] grouped by module, offsets int64 [M + 1], weights [M, in, out] and
// biases [M, out] per layer, then the network as FieldSpec.packed gives it (csrc/names.h numbers its fields).
#define BANK "Tensor x, Tensor offsets, Tensor[] weights, Tensor[] biases"
#define NET "int[] net_ints, float[] net_floats"
// A gradient or a tangent of the parameters comes as two lists, shaped like weights and biases.

constexpr const char* kBankSchemas[] = {
    // -> y [N, out_dim]
    "bank_mlp_fwd(" BANK ", " NET ") -> Tensor",
    // -> y, and `values` activations of the hidden layers, which the backward need not compute again
    "bank_mlp_fwd_keep(" BANK ", " NET ", int values) -> (Tensor, Tensor)",
    // -> gradients of x ([0, in_dim] if not needed), weights and biases (none if not needed)
    "bank_mlp_bwd(" BANK ", Tensor grad_y, " NET
    ", bool need_x, bool need_params, Tensor? kept) -> (Tensor, Tensor[], Tensor[])",
    // -> gradients of <grads, tangents> in x, weights, biases and grad_y
    "bank_mlp_bwd_bwd(" BANK
    ", Tensor grad_y, Tensor? tangent_x, Tensor[] tangent_weights, Tensor[] tangent_biases, " NET
    ", bool need_x) -> (Tensor, Tensor[], Tensor[], Tensor)",
};

constexpr const char* kErrorSchemas[] = {
    // -> loss [M]: the sum, or with `mean` the mean over points and outputs, of weight [N] times the squared
    // error; with need_params, its gradients
    "bank_mse_fwd(" BANK ", Tensor target, Tensor? weight, " NET
    ", bool mean, bool need_params) -> (Tensor, Tensor[], Tensor[])",
    // -> gradients of <cotangent [M], loss>; the known ones (or none) are those for a cotangent of ones
    "bank_mse_bwd(" BANK
    ", Tensor target, Tensor? weight, Tensor cotangent, Tensor[] known_weights, "
    "Tensor[] known_biases, " NET ", bool mean) -> (Tensor[], Tensor[])",
    // -> the product of the Hessian of <cotangent, loss> with the tangents
    "bank_mse_bwd_bwd(" BANK
    ", Tensor target, Tensor? weight, Tensor cotangent, Tensor[] tangent_weights, Tensor[] "
    "tangent_biases, " NET ", bool mean) -> (Tensor[], Tensor[])",
    // -> loss [M]: the sum, or with `mean` the mean over rays and channels, of ray_weight [R] times the
    // squared error of the pixels that the points of rays are composited to; with need_params, its gradients.
    // rays int64 [R + 1]: the first point of each ray; ray_offsets int64 [M + 1]: the first ray of each
    // module; widths [N]: sample spacing; target [R, 3]; background [3].
    "bank_ray_mse_fwd(" BANK
    ", Tensor rays, Tensor ray_offsets, Tensor widths, Tensor target, Tensor? ray_weight, Tensor? "
    "background, " NET
    ", bool last_behind, bool hold_last, bool exponential, bool density_first, float most_raw, bool mean, "
    "bool need_params) -> (Tensor, Tensor[], Tensor[])",
};

// -> scores, gradients (weights, biases) and diagonal Fisher (weights, biases); empty if not asked for
constexpr const char* kFisherSchemas[] = {
    // Each point is a sample.
    "fisher_points(" BANK
    ", Tensor grad_y, Tensor[] fisher_weights, Tensor[] fisher_biases, float damping, " NET
    ", bool sums) -> (Tensor, Tensor[], Tensor[], Tensor[], Tensor[])",
    // Sample s has the points segments[s] ... segments[s + 1] - 1; segment_offsets int64 [M + 1].
    "fisher_segments(" BANK
    ", Tensor grad_y, Tensor segments, Tensor segment_offsets, Tensor[] fisher_weights, "
    "Tensor[] fisher_biases, float damping, " NET
    ", bool sums) -> (Tensor, Tensor[], Tensor[], Tensor[], Tensor[])",
};

// The steps of a fit, which change params, exp_avg, exp_avg_sq (per layer the weights, then the biases; empty
// moments for SGD) and steps int64 [M] in place, up to goal int64 [M]. rates float64 [S] by step; the first
// sgd_steps are plain SGD. rule: a DrawRule; ids int64 [K, M, batch] of the rule `given`, with weights like
// them or None.
#define STEPS                                                                                                \
    "Tensor(a!)[] params, Tensor(b!)[] exp_avg, Tensor(c!)[] exp_avg_sq, Tensor(d!) steps, Tensor goal, "    \
    "Tensor rates, int sgd_steps, bool adam, int frozen_layers, float beta1, float beta2, float eps, float " \
    "lam, "                                                                                                  \
    "Tensor[] fisher, Tensor[] anchor, int rule, int batch, Tensor? ids, Tensor? ids_weight, int seed, "     \
    "int task, Tensor module_numbers, Tensor log_at, Tensor snapshot_at, Tensor? stop_loss, int "            \
    "check_every, "                                                                                          \
    "int precision"

constexpr const char* kStepSchemas[] = {
    // In place: params, exp_avg, exp_avg_sq (one tensor [M, ...] each) and step float64 [M]. lr float64 [M],
    // or None: lr_value; active bool [M], or None: all. exp_avg and exp_avg_sq are empty for SGD, fisher and
    // anchor if lam = 0. copies: like params in a half type, written with the values of params, whose grads
    // are of that type; an empty float32 tensor stands for a copy that a param lacks. grads are times scale
    // float64 [M] or, None, 1. Without copies empty and None. weight_decay: added to the gradient or,
    // decoupled, to the step. skip_zero: modules without a gradient other than 0 are not active.
    "bank_step(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avg, Tensor(c!)[] exp_avg_sq, "
    "Tensor(d!) step, Tensor? lr, float lr_value, Tensor? active, bool adam, float beta1, float beta2, "
    "float eps, float lam, Tensor[] fisher, Tensor[] anchor, Tensor(e!)[] copies, Tensor? scale, "
    "float weight_decay=0.0, bool decoupled=False, bool skip_zero=False) -> ()",
    // K steps of all modules. offsets None: x [n, in_dim] is shared, and target [M, n, out_dim]. ->
    // mini-batch
    // losses [log_at, M], parameters at snapshot_at (list after list), a FitEnd per module, the last loss
    // over
    // all samples that was checked against stop_loss
    "bank_fit(Tensor x, Tensor? offsets, Tensor target, Tensor? weight, " STEPS ", " NET
    ") -> (Tensor, Tensor[], Tensor, Tensor)",
    // The same with the rule `guided`: curve int64 [N] (without offsets [n]) holds the samples of each module
    // in
    // the order in which neighbors share scores; scores and window float64 [M, blocks], batches int64 [M] and
    // the
    // running Fisher (per layer the weights, then the biases) are changed in place, and empty with mix 0
    "bank_guided_fit(Tensor x, Tensor? offsets, Tensor target, Tensor? weight, Tensor? curve, "
    "Tensor(e!) scores, Tensor(f!) window, Tensor(g!) batches, Tensor(h!)[] running, float mix, float "
    "smooth, "
    "int block, int refresh, float decay, float damping, " STEPS ", " NET
    ") -> (Tensor, Tensor[], Tensor, Tensor)",
    // The same with rays [R, 3] in the box [-1, 1]^3 as samples, grouped by offsets; view [R, in_dim - 3],
    // weight [R], background [3] or None.
    "bank_ray_fit(Tensor origins, Tensor directions, Tensor? view, Tensor offsets, Tensor colors, Tensor? "
    "weight, "
    "Tensor? background, int bins, float near, float far, bool jitter, bool last_behind, bool hold_last, "
    "bool exponential, bool density_first, float max_raw_density, " STEPS ", " NET
    ") -> (Tensor, Tensor[], Tensor, Tensor)",
    // -> ids int64 [M, batch] of samples, by the rule uniform or even; sizes, modules, steps int64 [M]
    "draw_ids(Tensor sizes, Tensor modules, Tensor steps, int batch, int rule, int seed, int task) -> Tensor",
};

// The inner loop of meta-learning: K gradient steps of all modules. weights, biases [M, ...], or [1, ...]
// that all modules begin at; rates [K, M, layers]; samples as bank_fit has them. ids [K, M, batch], or none:
// batch > 0: the next ones in each step, batch = 0: all in each.
#define INNER                                                                                             \
    "Tensor[] weights, Tensor[] biases, Tensor rates, Tensor x, Tensor? offsets, Tensor target, Tensor? " \
    "weight, Tensor? ids, Tensor? ids_weight, int batch, int frozen_layers, float clip, bool "            \
    "first_order, " NET

constexpr const char* kAdaptSchemas[] = {
    // -> adapted weights and biases [M, ...], losses [K, M] before each step, and the parameters before each
    // step but the first [M, K - 1, parameters] (none if not needed)
    "bank_adapt_fwd(" INNER ", bool need_starts) -> (Tensor[], Tensor[], Tensor, Tensor)",
    // -> gradients of weights and biases, and of rates ([0, M, layers] if not needed)
    "bank_adapt_bwd(" INNER
    ", Tensor starts, Tensor[] grad_weights, Tensor[] grad_biases, Tensor? grad_losses, bool need_rates) -> "
    "(Tensor[], Tensor[], Tensor)",
};

// Volume rendering. Packed: density, t_starts, t_ends [N], color [N, C], packed_info int64 [R, 2] = (first
// sample, count) of each ray. Dense (no packed_info): density, t_starts, t_ends [R, S], color [R, S, C].
// background [C] or [R, C].
#define SAMPLES \
    "Tensor density, Tensor color, Tensor t_starts, Tensor t_ends, Tensor? packed_info, Tensor? background"
// Cotangents of color [R, C], opacity [R], depth [R] and weights (like density); None is zero.
#define COTANGENTS "Tensor? grad_color, Tensor? grad_opacity, Tensor? grad_depth, Tensor? grad_weights"
// Tangents of the differentiable inputs; None is zero.
#define TANGENTS \
    "Tensor? v_density, Tensor? v_color, Tensor? v_t_starts, Tensor? v_t_ends, Tensor? v_background"

constexpr const char* kRenderSchemas[] = {
    // -> color [R, C], opacity [R], depth [R], weights like density
    "composite_fwd(" SAMPLES ", float early_stop_eps) -> (Tensor, Tensor, Tensor, Tensor)",
    // -> gradients of density, color, t_starts, t_ends, background; empty ([0]) if not needed
    "composite_bwd(" SAMPLES ", " COTANGENTS
    ", float early_stop_eps, bool need_color, bool need_t, bool need_background) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    // -> gradients of density, color, t_starts, t_ends, background, then of the four cotangents
    "composite_bwd_bwd(" SAMPLES ", " COTANGENTS ", " TANGENTS
    ", float early_stop_eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    // origins, directions [R, 3]; occupancy bool or float32 [L, X, Y, Z]; aabb [2, 3]; near, far [R], or
    // None: near_value, far_value; bins = 0: steps of length `step`
    // -> t_starts [N], t_ends [N], ray_ids [N], packed_info [R, 2]
    "march_rays_fwd(Tensor origins, Tensor directions, Tensor? occupancy, Tensor aabb, Tensor? near, Tensor? "
    "far, "
    "float near_value, float far_value, int bins, float step, bool stratified, int seed, float "
    "early_stop_eps) -> "
    "(Tensor, Tensor, Tensor, Tensor)",  // origins, directions [R, 3]; mask bool [R], or None; cells bool [G,
                                         // X, Y, Z]; aabbs [G, 6]; enters, exits,
    // hits (bool) [R, G]; near, far [R]; step = 0: a sample per cell; limit = 0: any number of samples
    // -> t_starts [N], t_ends [N], ray_ids [N], packed_info [R, 2], stops [R]
    "traverse_grids_fwd(Tensor origins, Tensor directions, Tensor? mask, Tensor cells, Tensor aabbs, Tensor "
    "enters, "
    "Tensor exits, Tensor hits, Tensor near, Tensor far, float step, float cone, int limit) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    // h = factor h + term along each segment; factor, term [N]: None is 1, 0; packed_info int64 [R, 2]
    "segment_scan_fwd(Tensor? factor, Tensor? term, Tensor packed_info, float initial, bool exclusive, bool "
    "reverse) -> Tensor",
};

constexpr const char* kPixelSchemas[] = {
    // The pixels of rays through one module each; aabb, occupancy, bins and step as march_rays_fwd takes
    // them,
    // view_directions [R, in_dim - 3], background [C] or [R, C], density and color: an Activation each
    // -> color [R, C], opacity [R], depth [R]
    "render_rays_fwd(Tensor origins, Tensor directions, Tensor ray_offsets, Tensor[] weights, Tensor[] "
    "biases, "
    "Tensor aabb, Tensor? occupancy, Tensor? view_directions, Tensor? background, " NET
    ", int bins, float step, float near, float far, bool last_behind, int density, int color, float "
    "max_raw_density, float early_stop_eps) -> (Tensor, Tensor, Tensor)",
};

// x [N, dims] grouped by module, offsets int64 [M + 1], tables [M, entries, features] and the grid as
// GridLayout.packed (mclnf_fast/grids.py) gives it; y is [N, outputs].
#define GRID "Tensor x, Tensor offsets, Tensor tables"
#define LAYOUT "int[] grid_ints, float[] grid_floats"

constexpr const char* kGridSchemas[] = {
    "grid_encode_fwd(" GRID ", " LAYOUT ") -> Tensor",
    // -> gradients of x and tables; of no rows if not needed
    "grid_encode_bwd(" GRID ", Tensor grad_y, " LAYOUT ", bool need_x, bool need_tables) -> (Tensor, Tensor)",
    // -> gradients of <grad_x, tangent_x> + <grad_tables, tangent_tables> in x, tables and grad_y; of no rows
    // if not needed
    "grid_encode_bwd_bwd(" GRID ", Tensor grad_y, Tensor? tangent_x, Tensor? tangent_tables, " LAYOUT
    ", bool need_x, bool need_tables, bool need_grad_y) -> (Tensor, Tensor, Tensor)",
};

// The library's reports on itself.
constexpr const char* kLibrarySchemas[] = {
    "cpu_instruction_set() -> str",
    // -> GFLOP/s of a loop of multiply-adds on all threads, for benchmarks; 0 if bf16 has no dot instruction
    "cpu_fma_limit(float seconds, bool bf16=False) -> float",
    // -> whether bf16 banks run on the dot product instruction of bf16 pairs
    "cpu_bf16_dot() -> bool",
    // -> "activation.none=0;activation.relu=1;...": csrc/names.h, for Python to compare with its own tables
    "name_table() -> str",
};

template <class Library, size_t count>
void define(Library& library, const char* const (&schemas)[count]) {
    for (const char* schema : schemas) library.def(schema);
}

}  // namespace

// Under another name, the kernels of csrc/cuda emulated on the CPU (tests/ops/cuda_emulation).
#ifndef MCLNF_LIBRARY
#define MCLNF_LIBRARY mclnf_fast
#endif

STABLE_TORCH_LIBRARY(MCLNF_LIBRARY, m) {
    define(m, kBankSchemas);
    define(m, kErrorSchemas);
    define(m, kFisherSchemas);
    define(m, kStepSchemas);
    define(m, kAdaptSchemas);
    define(m, kRenderSchemas);
    define(m, kPixelSchemas);
    define(m, kGridSchemas);
    define(m, kLibrarySchemas);
}

"""The signature of every op, compiled and Triton alike: the list of what the engine can do.

The ops of `mclnf_fast` are defined by csrc/schema.cpp, which this list must repeat word for word: `_library` compares
them when it loads the library, so that a library of another version is refused with a reason. Those of
`mclnf_fast_triton` are defined from this list (`schema`). Names of arguments are part of the contract: saved graphs
hold them.
"""

from __future__ import annotations

import torch

# One bank of M modules: x [N, in_dim] grouped by module, offsets int64 [M + 1], weights [M, in, out] and biases
# [M, out] per layer; the network as `FieldSpec.packed` gives it.
BANK = "Tensor x, Tensor offsets, Tensor[] weights, Tensor[] biases"
NET = "int[] net_ints, float[] net_floats"
TANGENTS = "Tensor[] tangent_weights, Tensor[] tangent_biases"
ERROR = "Tensor target, Tensor? weight"
FISHER = "Tensor[] fisher_weights, Tensor[] fisher_biases, float damping"
# Samples along rays, packed or dense, and the cotangents of what they are composited to.
SAMPLES = "Tensor density, Tensor color, Tensor t_starts, Tensor t_ends, Tensor? packed_info, Tensor? background"
COTANGENTS = "Tensor? grad_color, Tensor? grad_opacity, Tensor? grad_depth, Tensor? grad_weights"
GRID = "Tensor x, Tensor offsets, Tensor tables"
LAYOUT = "int[] grid_ints, float[] grid_floats"
# The steps of a fit: parameters, moments and step counts, which are changed in place, and how each step is made.
STEPS = (
    "Tensor(a!)[] params, Tensor(b!)[] exp_avg, Tensor(c!)[] exp_avg_sq, Tensor(d!) steps, Tensor goal, Tensor rates,"
    " int sgd_steps, bool adam, int frozen_layers, float beta1, float beta2, float eps, float lam, Tensor[] fisher,"
    " Tensor[] anchor,"
    " int rule, int batch, Tensor? ids, Tensor? ids_weight, int seed, int task, Tensor module_numbers, Tensor log_at,"
    " Tensor snapshot_at, Tensor? stop_loss, int check_every, int precision"
)
# The inner loop of meta-learning: parameters, rates [K, M, layers], samples as `bank_fit` has them.
INNER = (
    "Tensor[] weights, Tensor[] biases, Tensor rates, Tensor x, Tensor? offsets, Tensor target, Tensor? weight,"
    f" Tensor? ids, Tensor? ids_weight, int batch, int frozen_layers, float clip, bool first_order, {NET}"
)

COMPILED = (
    f"bank_mlp_fwd({BANK}, {NET}) -> Tensor",
    f"bank_mlp_fwd_keep({BANK}, {NET}, int values) -> (Tensor, Tensor)",
    f"bank_mlp_bwd({BANK}, Tensor grad_y, {NET}, bool need_x, bool need_params, Tensor? kept)"
    " -> (Tensor, Tensor[], Tensor[])",
    f"bank_mlp_bwd_bwd({BANK}, Tensor grad_y, Tensor? tangent_x, {TANGENTS}, {NET}, bool need_x)"
    " -> (Tensor, Tensor[], Tensor[], Tensor)",
    f"bank_mse_fwd({BANK}, {ERROR}, {NET}, bool mean, bool need_params) -> (Tensor, Tensor[], Tensor[])",
    f"bank_mse_bwd({BANK}, {ERROR}, Tensor cotangent, Tensor[] known_weights, Tensor[] known_biases, {NET}, bool mean)"
    " -> (Tensor[], Tensor[])",
    f"bank_mse_bwd_bwd({BANK}, {ERROR}, Tensor cotangent, {TANGENTS}, {NET}, bool mean) -> (Tensor[], Tensor[])",
    f"bank_ray_mse_fwd({BANK}, Tensor rays, Tensor ray_offsets, Tensor widths, Tensor target, Tensor? ray_weight,"
    f" Tensor? background, {NET}, bool last_behind, bool hold_last, bool exponential, bool density_first,"
    " float most_raw, bool mean, bool need_params) -> (Tensor, Tensor[], Tensor[])",
    f"fisher_points({BANK}, Tensor grad_y, {FISHER}, {NET}, bool sums)"
    " -> (Tensor, Tensor[], Tensor[], Tensor[], Tensor[])",
    f"fisher_segments({BANK}, Tensor grad_y, Tensor segments, Tensor segment_offsets, {FISHER}, {NET}, bool sums)"
    " -> (Tensor, Tensor[], Tensor[], Tensor[], Tensor[])",
    "bank_step(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avg, Tensor(c!)[] exp_avg_sq, Tensor(d!) step,"
    " Tensor? lr, float lr_value, Tensor? active, bool adam, float beta1, float beta2, float eps, float lam,"
    " Tensor[] fisher, Tensor[] anchor, Tensor(e!)[] copies, Tensor? scale, float weight_decay=0.0,"
    " bool decoupled=False, bool skip_zero=False) -> ()",
    f"bank_fit(Tensor x, Tensor? offsets, Tensor target, Tensor? weight, {STEPS}, {NET})"
    " -> (Tensor, Tensor[], Tensor, Tensor)",
    "bank_guided_fit(Tensor x, Tensor? offsets, Tensor target, Tensor? weight, Tensor? curve,"
    " Tensor(e!) scores, Tensor(f!) window, Tensor(g!) batches, Tensor(h!)[] running, float mix, float smooth,"
    f" int block, int refresh, float decay, float damping, {STEPS}, {NET}) -> (Tensor, Tensor[], Tensor, Tensor)",
    "bank_ray_fit(Tensor origins, Tensor directions, Tensor? view, Tensor offsets, Tensor colors, Tensor? weight,"
    " Tensor? background, int bins, float near, float far, bool jitter, bool last_behind, bool hold_last, bool"
    f" exponential, bool density_first, float max_raw_density, {STEPS}, {NET}) -> (Tensor, Tensor[], Tensor, Tensor)",
    f"bank_adapt_fwd({INNER}, bool need_starts) -> (Tensor[], Tensor[], Tensor, Tensor)",
    f"bank_adapt_bwd({INNER}, Tensor starts, Tensor[] grad_weights, Tensor[] grad_biases, Tensor? grad_losses,"
    " bool need_rates) -> (Tensor[], Tensor[], Tensor)",
    "draw_ids(Tensor sizes, Tensor modules, Tensor steps, int batch, int rule, int seed, int task) -> Tensor",
    f"composite_fwd({SAMPLES}, float early_stop_eps) -> (Tensor, Tensor, Tensor, Tensor)",
    f"composite_bwd({SAMPLES}, {COTANGENTS}, float early_stop_eps, bool need_color, bool need_t, bool need_background)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    f"composite_bwd_bwd({SAMPLES}, {COTANGENTS}, Tensor? v_density, Tensor? v_color, Tensor? v_t_starts,"
    " Tensor? v_t_ends, Tensor? v_background, float early_stop_eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "march_rays_fwd(Tensor origins, Tensor directions, Tensor? occupancy, Tensor aabb, Tensor? near, Tensor? far,"
    " float near_value, float far_value, int bins, float step, bool stratified, int seed, float early_stop_eps)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    "traverse_grids_fwd(Tensor origins, Tensor directions, Tensor? mask, Tensor cells, Tensor aabbs, Tensor enters,"
    " Tensor exits, Tensor hits, Tensor near, Tensor far, float step, float cone, int limit)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "segment_scan_fwd(Tensor? factor, Tensor? term, Tensor packed_info, float initial, bool exclusive, bool reverse)"
    " -> Tensor",
    "render_rays_fwd(Tensor origins, Tensor directions, Tensor ray_offsets, Tensor[] weights, Tensor[] biases, Tensor"
    f" aabb, Tensor? occupancy, Tensor? view_directions, Tensor? background, {NET}, int bins, float step, float near,"
    " float far, bool last_behind, int density, int color, float max_raw_density, float early_stop_eps)"
    " -> (Tensor, Tensor, Tensor)",
    f"grid_encode_fwd({GRID}, {LAYOUT}) -> Tensor",
    f"grid_encode_bwd({GRID}, Tensor grad_y, {LAYOUT}, bool need_x, bool need_tables) -> (Tensor, Tensor)",
    f"grid_encode_bwd_bwd({GRID}, Tensor grad_y, Tensor? tangent_x, Tensor? tangent_tables, {LAYOUT}, bool need_x,"
    " bool need_tables, bool need_grad_y) -> (Tensor, Tensor, Tensor)",
    "cpu_instruction_set() -> str",
    "cpu_fma_limit(float seconds, bool bf16=False) -> float",
    "cpu_bf16_dot() -> bool",
    "name_table() -> str",
)
"""Ops of the namespace `mclnf_fast`, on CPU and on CUDA tensors."""

TRITON = (
    f"bank_mlp_fwd({BANK}, {NET}) -> Tensor",
    f"bank_mlp_bwd({BANK}, Tensor grad_y, {NET}, bool need_x, bool need_params) -> (Tensor, Tensor[], Tensor[])",
    f"bank_mlp_bwd_bwd({BANK}, Tensor grad_y, Tensor? tangent_x, {TANGENTS}, {NET}, bool need_x)"
    " -> (Tensor, Tensor[], Tensor[], Tensor)",
    f"bank_mse_fwd({BANK}, {ERROR}, {NET}, bool mean, bool need_params) -> (Tensor, Tensor[], Tensor[])",
    f"bank_mse_bwd({BANK}, {ERROR}, Tensor cotangent, Tensor[] known_weights, Tensor[] known_biases, {NET}, bool mean)"
    " -> (Tensor[], Tensor[])",
    f"bank_mse_bwd_bwd({BANK}, {ERROR}, Tensor cotangent, {TANGENTS}, {NET}, bool mean) -> (Tensor[], Tensor[])",
    # heads: the numbers of the activations of density and color; numbers: near, far, step, largest raw density and the
    # optical depth at which a ray ends
    "render_rays(Tensor origins, Tensor directions, Tensor ray_offsets, Tensor[] weights, Tensor[] biases, Tensor aabb,"
    f" Tensor? occupancy, Tensor? extra, Tensor? background, {NET}, int bins, bool last_behind, int[] heads,"
    " float[] numbers) -> (Tensor, Tensor, Tensor)",
)
"""Ops of the namespace `mclnf_fast_triton`, on CUDA tensors, and on CPU tensors where Triton interprets."""


def name_of(schema: str) -> str:
    """Return the name of the op that a schema is of.

    >>> name_of("bank_mlp_fwd(Tensor x) -> Tensor")
    'bank_mlp_fwd'
    """
    return schema.split("(", 1)[0]


def schema(name: str) -> str:
    """Return the arguments and results of an op of `mclnf_fast_triton`, as `torch.library.custom_op` takes them.

    >>> schema("bank_mlp_fwd").endswith("-> Tensor")
    True
    """
    for text in TRITON:
        if name_of(text) == name:
            return text.removeprefix(name)
    raise ValueError(f"name must be an op of TRITON, got {name!r}")


def difference(namespace: str, schemas: tuple[str, ...]) -> str | None:
    """Return the first op of a namespace that is not as its schema says; None if all are.

    >>> difference("aten", ("relu(Tensor self) -> Tensor",))
    >>> difference("aten", ("relu(Tensor x) -> Tensor",))
    'relu'
    """
    for text in schemas:
        name = name_of(text)
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if packet is None or str(packet.default._schema) != str(torch._C.parse_schema(f"{namespace}::{text}")):
            return name
    return None

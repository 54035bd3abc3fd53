// Signatures of the ops of volume rendering: composite and march. schema.cpp defines them.
#pragma once

// Packed: density, t_starts, t_ends [N], color [N, C], packed_info int64 [R, 2] = (first sample, count) of
// each ray. Dense (no packed_info): density, t_starts, t_ends [R, S], color [R, S, C]. background [C] or [R,
// C].
#define MCLNF_COMPOSITE_INPUTS \
    "Tensor density, Tensor color, Tensor t_starts, Tensor t_ends, Tensor? packed_info, Tensor? background"
// Cotangents of color [R, C], opacity [R], depth [R] and weights (like density); None is zero.
#define MCLNF_COMPOSITE_COTANGENTS \
    "Tensor? grad_color, Tensor? grad_opacity, Tensor? grad_depth, Tensor? grad_weights"
// Tangents of the differentiable inputs; None is zero.
#define MCLNF_COMPOSITE_TANGENTS \
    "Tensor? v_density, Tensor? v_color, Tensor? v_t_starts, Tensor? v_t_ends, Tensor? v_background"

inline constexpr const char* kRenderSchemas[] = {
    // -> color [R, C], opacity [R], depth [R], weights like density
    "composite_fwd(" MCLNF_COMPOSITE_INPUTS ", float early_stop_eps) -> (Tensor, Tensor, Tensor, Tensor)",
    // -> gradients of density, color, t_starts, t_ends, background; empty ([0]) where not needed
    "composite_bwd(" MCLNF_COMPOSITE_INPUTS ", " MCLNF_COMPOSITE_COTANGENTS
    ", float early_stop_eps, bool need_color, bool need_t, bool need_background) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    // -> gradients of density, color, t_starts, t_ends, background, then of the four cotangents
    "composite_bwd_bwd(" MCLNF_COMPOSITE_INPUTS ", " MCLNF_COMPOSITE_COTANGENTS ", " MCLNF_COMPOSITE_TANGENTS
    ", float early_stop_eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    // origins, directions [R, 3]; occupancy bool or float32 [L, X, Y, Z]; aabb [2, 3]; near, far [R], where
    // None the
    // numbers hold; bins = 0: steps of length `step` -> t_starts [N], t_ends [N], ray_ids [N], packed_info
    // [R, 2]
    "march_rays_fwd(Tensor origins, Tensor directions, Tensor? occupancy, Tensor aabb, Tensor? near, Tensor? "
    "far, "
    "float near_value, float far_value, int bins, float step, bool stratified, int seed, float "
    "early_stop_eps) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
};

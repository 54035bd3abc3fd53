// Signatures of the grid encodings. schema.cpp defines them.
#pragma once

// x [N, dims] grouped by module, offsets int64 [M + 1], tables [M, entries, features] and the grid as
// GridLayout.packed (mclnf_fast/grids.py) gives it; y is [N, outputs].
#define MCLNF_GRID_INPUTS "Tensor x, Tensor offsets, Tensor tables"
#define MCLNF_GRID_LAYOUT "int[] grid_ints, float[] grid_floats"

inline constexpr const char* kGridSchemas[] = {
    "grid_encode_fwd(" MCLNF_GRID_INPUTS ", " MCLNF_GRID_LAYOUT ") -> Tensor",
    // -> gradients of x and tables; of no rows where not needed
    "grid_encode_bwd(" MCLNF_GRID_INPUTS ", Tensor grad_y, " MCLNF_GRID_LAYOUT
    ", bool need_x, bool need_tables) -> (Tensor, Tensor)",
    // -> gradients of <grad_x, tangent_x> + <grad_tables, tangent_tables> in x, tables and grad_y; of no rows
    // where not needed
    "grid_encode_bwd_bwd(" MCLNF_GRID_INPUTS
    ", Tensor grad_y, Tensor? tangent_x, Tensor? tangent_tables, " MCLNF_GRID_LAYOUT
    ", bool need_x, bool need_tables, bool need_grad_y) -> (Tensor, Tensor, Tensor)",
};

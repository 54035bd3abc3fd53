// The tensors of the traversal of grids, checked; the same on every device.
#pragma once

#include <limits>

#include "math/traverse.h"
#include "tensors.h"

namespace mclnf {

// The device's kernels see plain pointers (`traverse`); whatever they rely on is checked here, once.
struct TraverseInputs {
    Tensor origins, directions, cells, aabbs, enters, exits, hits, near, far;
    OptTensor mask;
    double step, cone;
    int64_t rays, limit;

    TraverseInputs(const Tensor& origins_, const Tensor& directions_, const OptTensor& mask_,
                   const Tensor& cells_, const Tensor& aabbs_, const Tensor& enters_, const Tensor& exits_,
                   const Tensor& hits_, const Tensor& near_, const Tensor& far_, double step_, double cone_,
                   int64_t limit_)
        : origins(contiguous_of("origins", origins_)),
          directions(contiguous_of("directions", directions_)),
          cells(contiguous_of("cells", cells_)),
          aabbs(contiguous_of("aabbs", aabbs_)),
          enters(contiguous_of("enters", enters_)),
          exits(contiguous_of("exits", exits_)),
          hits(contiguous_of("hits", hits_)),
          near(contiguous_of("near", near_)),
          far(contiguous_of("far", far_)),
          mask(contiguous_of("mask", mask_)),
          step(step_),
          cone(cone_),
          rays(origins.size(0)),
          limit(limit_) {
        const ScalarType dtype = origins.scalar_type();
        STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                        "traverse_grids: origins must be float32 or float64");
        for (const Tensor* t : {&directions, &aabbs, &enters, &exits, &near, &far}) {
            STD_TORCH_CHECK(
                t->scalar_type() == dtype,
                "traverse_grids: directions, aabbs, enters, exits, near and far must have the dtype "
                "of origins");
        }
        STD_TORCH_CHECK(origins.numel() == 3 * rays && directions.numel() == 3 * rays &&
                            near.numel() == rays && far.numel() == rays,
                        "traverse_grids: origins and directions must be [R, 3], near and far [R]");
        STD_TORCH_CHECK(cells.dim() == 4 && cells.scalar_type() == ScalarType::Bool && cells.numel() > 0 &&
                            cells.numel() <= std::numeric_limits<int32_t>::max(),
                        "traverse_grids: cells must be bool [G, X, Y, Z] with 1 ... 2^31 - 1 cells");
        const int64_t grids = cells.size(0);
        STD_TORCH_CHECK(aabbs.numel() == 6 * grids && enters.numel() == rays * grids &&
                            exits.numel() == rays * grids && hits.numel() == rays * grids &&
                            hits.scalar_type() == ScalarType::Bool,
                        "traverse_grids: aabbs must be [G, 6], enters, exits and hits (bool) [R, G]");
        STD_TORCH_CHECK(!mask || (mask->numel() == rays && mask->scalar_type() == ScalarType::Bool),
                        "traverse_grids: mask must be bool [R]");
    }

    bool is_double() const { return origins.scalar_type() == ScalarType::Double; }

    template <typename T>
    Traverse<T> traverse() const {
        Traverse<T> in{};
        in.origins = pointer<T>(origins);
        in.directions = pointer<T>(directions);
        in.mask = pointer<bool>(mask);
        in.cells = pointer<bool>(cells);
        in.aabbs = pointer<T>(aabbs);
        in.enters = pointer<T>(enters);
        in.exits = pointer<T>(exits);
        in.hits = pointer<bool>(hits);
        in.near = pointer<T>(near);
        in.far = pointer<T>(far);
        in.grids = cells.size(0);
        for (int axis = 0; axis < 3; ++axis) in.size[axis] = static_cast<int32_t>(cells.size(axis + 1));
        in.step = step;
        in.cone = static_cast<T>(cone);
        in.limit = limit > 0 ? limit : 0;
        return in;
    }

    // Of one ray, known only after the traversal has begun.
    static void check_steps(bool too_many, double step) {
        STD_TORCH_CHECK(!too_many, "traverse_grids: step must give at most ", int64_t(kMostSteps),
                        " steps a ray, got ", step, " for a ray with more");
    }
};

}  // namespace mclnf

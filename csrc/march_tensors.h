// The tensors of the marching op, checked; the same on every device.
#pragma once

#include <cmath>
#include <limits>

#include "math/march.h"
#include "tensors.h"

namespace mclnf {

// The device's kernels see plain pointers (`march`); whatever they rely on is checked here, once.
struct MarchInputs {
    Tensor origins, directions, aabb;
    OptTensor occupancy, near, far;
    double near_value, far_value, step, eps;
    int64_t rays, bins, seed;
    bool stratified;

    MarchInputs(const Tensor& origins_, const Tensor& directions_, const OptTensor& occupancy_,
                const Tensor& aabb_, const OptTensor& near_, const OptTensor& far_, double near_value_,
                double far_value_, int64_t bins_, double step_, bool stratified_, int64_t seed_, double eps_)
        : origins(contiguous_of("origins", origins_)),
          directions(contiguous_of("directions", directions_)),
          aabb(contiguous_of("aabb", aabb_)),
          occupancy(contiguous_of("occupancy", occupancy_)),
          near(contiguous_of("near", near_)),
          far(contiguous_of("far", far_)),
          near_value(near_value_),
          far_value(far_value_),
          step(step_),
          eps(eps_),
          rays(origins.size(0)),
          bins(bins_),
          seed(seed_),
          stratified(stratified_) {
        const ScalarType dtype = origins.scalar_type();
        STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                        "march_rays: origins must be float32 or float64");
        STD_TORCH_CHECK(origins.numel() == 3 * rays && directions.numel() == 3 * rays && aabb.numel() == 6,
                        "march_rays: origins and directions must be [R, 3], aabb [2, 3]");
        STD_TORCH_CHECK(directions.scalar_type() == dtype && aabb.scalar_type() == dtype,
                        "march_rays: directions and aabb must have the dtype of origins");
        for (const OptTensor* t : {&near, &far}) {
            STD_TORCH_CHECK(!*t || ((*t)->numel() == rays && (*t)->scalar_type() == dtype),
                            "march_rays: near and far must be [R] with the dtype of origins");
        }
        STD_TORCH_CHECK(bins >= 0 && bins <= kMaxBins && (bins > 0 || step > 0),
                        "march_rays: bins must be in 1 ... ", kMaxBins, ", or 0 with a positive step");
        if (!occupancy) return;
        STD_TORCH_CHECK(
            occupancy->dim() == 4 && occupancy->numel() > 0 && occupancy->size(0) <= 32 &&
                occupancy->numel() <= std::numeric_limits<int32_t>::max(),
            "march_rays: occupancy must be [L, X, Y, Z] with 1 ... 2^31 - 1 cells and at most 32 levels");
        STD_TORCH_CHECK(
            occupancy->scalar_type() == ScalarType::Bool || occupancy->scalar_type() == ScalarType::Float,
            "march_rays: occupancy must be bool or float32");
    }

    bool is_double() const { return origins.scalar_type() == ScalarType::Double; }

    template <typename T>
    March<T> march() const {
        const bool mask = occupancy && occupancy->scalar_type() == ScalarType::Bool;
        March<T> in{};
        in.origins = pointer<T>(origins);
        in.directions = pointer<T>(directions);
        in.aabb = pointer<T>(aabb);
        in.near = pointer<T>(near);
        in.far = pointer<T>(far);
        in.near_value = static_cast<T>(near_value);
        in.far_value = static_cast<T>(far_value);
        in.cells = mask ? pointer<bool>(occupancy) : nullptr;
        in.density = mask ? nullptr : pointer<float>(occupancy);
        in.levels = occupancy ? static_cast<int32_t>(occupancy->size(0)) : 1;
        for (int axis = 0; axis < 3; ++axis)
            in.size[axis] = occupancy ? static_cast<int32_t>(occupancy->size(axis + 1)) : 1;
        in.bins = static_cast<int32_t>(bins);
        in.step = static_cast<T>(step);
        in.stratified = stratified;
        in.seed = seed;
        // Transmittance is exp(-depth): compared as a depth, no exponential is needed per bin.
        in.max_depth = eps > 0 ? -std::log(eps) : std::numeric_limits<double>::infinity();
        return in;
    }

    // Of one ray, known only after the march has begun.
    static void check_bins(int64_t bins, double step) {
        STD_TORCH_CHECK(bins <= kMaxBins, "march_rays: step must give at most ", kMaxBins,
                        " bins a ray, got ", step, " for a ray with more");
    }
};

}  // namespace mclnf

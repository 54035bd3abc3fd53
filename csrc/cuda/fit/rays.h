// Rays as samples in the kernel of `bank_fit`: cut into the points of a tile, composited to pixels, and the
// gradients of their squared errors in the outputs, a warp per ray. With sample spacing delta_i, density
// sigma_i and color c_i along a ray (arXiv 2003.08934, eq. 3), s_i = sigma_i delta_i and A_i = sum_(j<i) s_j:
//   T_i = exp(-A_i), w_i = T_i (1 - exp(-s_i)), pixel = sum w_i c_i + T_end background,
// and with g = dL/dpixel, q_i = g . (c_i - background):
//   dL/dc_i = w_i g, dL/dsigma_i = delta_i (T_(i+1) q_i - sum_(j>i) w_j q_j).
#pragma once

#include "batch.h"
#include "layers.h"
#include "math/march.h"
#include "math/warp_lanes.h"

namespace mclnf {

// Density and color of a point, and their derivatives in the pre-activations of the four outputs.
template <typename S>
struct FitShaded {
    S density, color[3], density_by, color_by[3];
};

// Numbers per interval of a ray that needs several tiles.
constexpr int kFitRayNumbers = 6;

// A place per point and ray: the outputs' pre-activations [4, stride], of which the gradients take the place,
// sample spacings (0: no point) and optical depths in front.
template <typename S>
struct FitRaySlots {
    S *outputs, *deltas, *optical;
    int64_t stride;
};

template <typename S, int kPrecision>
class FitRayTile {
    using Lane = WarpLane<S>;

  public:
    __device__ FitRayTile(const FitCall<S>& call, const FitMemory<S>& memory,
                          const FitLayers<S, kPrecision>& layers)
        : c_(call), net_(call.net), rays_(call.rays), mem_(memory), layers_(layers) {}

    // The outputs of the points of rays `begin` ... `begin + rays - 1` of the batch, whose ids are in memory,
    // from their interval `first_bin` on. False if there is none; the spacings are written anyway. Ends with
    // a barrier.
    __device__ bool evaluate(const FitBatch<S>& batch, int64_t begin, int rays, int first_bin) const {
        const bool any = cut(batch, begin, rays, first_bin);
        if (!any) return false;
        layers_.encode([&](int d, int p) { return coordinates(d)[p]; });
        __syncthreads();
        layers_.forward();
        return true;
    }

    // A tile's outputs and spacings to the block's memory for a whole ray, and the gradients back.
    __device__ void save(int first_bin, bool any) const {
        const FitRaySlots<S> from = near_slots(), to = far_slots();
        each_value(4, tile_bins(first_bin), [&](int r, int p) {
            if (any) to.outputs[r * to.stride + first_bin + p] = from.outputs[r * from.stride + p];
            if (r == 0) to.deltas[first_bin + p] = from.deltas[p];
        });
        __syncthreads();
    }
    __device__ void restore(int first_bin) const {
        const FitRaySlots<S> to = near_slots(), from = far_slots();
        const int bins = tile_bins(first_bin);
        each_value(4, layers_.points(), [&](int r, int p) {
            to.outputs[r * to.stride + p] = p < bins ? from.outputs[r * from.stride + first_bin + p] : S(0);
        });
        __syncthreads();
    }

    // The error of the rays' pixels, of which each thread returns a share, and the gradients in the place of
    // the outputs. whole: the rays are in the tile.
    __device__ double composite(const FitBatch<S>& batch, int rays, S scale, bool gradients,
                                bool whole) const {
        const FitRaySlots<S> slots = whole ? near_slots() : far_slots();
        const FitTeam team = FitTeam::all();
        double error = 0;
        for (int q = team.warp(); q < rays; q += team.warps())
            error += composite_ray(slots, q * rays_.bins, batch.target + 3 * int64_t(mem_.ids[q]),
                                   mem_.weights[q], scale, gradients);
        if (whole && gradients) {
            const int used = rays * rays_.bins;
            each_value(4, layers_.points() - used,
                       [&](int r, int p) { slots.outputs[r * slots.stride + used + p] = S(0); });
        }
        return error;
    }

  private:
    __device__ S* coordinates(int d) const { return layers_.row(net_.places() + d); }
    __device__ FitRaySlots<S> near_slots() const {
        // Nobody reads the coordinates any more when the optical depths take their place.
        return {layers_.row(net_.outputs()), layers_.row(net_.places() + net_.in_dim), coordinates(0),
                layers_.stride()};
    }
    __device__ FitRaySlots<S> far_slots() const {
        const int64_t bins = rays_.bins;
        return {mem_.ray, mem_.ray + 4 * bins, mem_.ray + 5 * bins, bins};
    }
    __device__ int tile_bins(int first_bin) const {
        const int rest = rays_.bins - first_bin;
        return rest < layers_.points() ? rest : layers_.points();
    }

    __device__ bool cut(const FitBatch<S>& batch, int64_t begin, int rays, int first_bin) const {
        const bool whole = rays_.bins <= layers_.points();
        const S box[6] = {S(-1), S(-1), S(-1), S(1), S(1), S(1)};
        March<S> march{};
        march.aabb = box;
        march.near_value = rays_.near;
        march.far_value = rays_.far;
        march.levels = 1;
        march.bins = rays_.bins;
        march.stratified = batch.jitter;
        march.seed = batch.counter.step;
        bool any = false;
        for (int p = static_cast<int>(threadIdx.x); p < layers_.points(); p += FitTeam::all().threads) {
            const int q = whole ? p / rays_.bins : 0, bin = whole ? p - q * rays_.bins : first_bin + p;
            S delta = S(0);
            for (int d = 0; d < net_.in_dim; ++d) coordinates(d)[p] = S(0);
            if (q < rays && bin < rays_.bins) {
                // A ray's jitter is keyed by its place in the batch.
                const int64_t id = mem_.ids[q], place = begin + q;
                march.origins = batch.x + 3 * (id - place);
                march.directions = batch.directions + 3 * (id - place);
                const MarchedRay<S> ray = march_begin(march, place);
                if (ray.bins > 0) {
                    const S from = march_edge(ray, march.stratified, bin),
                            to = march_edge(ray, march.stratified, bin + 1), t = (from + to) * S(0.5);
                    delta = to > from ? to - from : S(0);
                    for (int axis = 0; axis < 3; ++axis)
                        coordinates(axis)[p] = ray.origin[axis] + ray.direction[axis] * t;
                    for (int d = 3; d < net_.in_dim; ++d)
                        coordinates(d)[p] = batch.view[id * (net_.in_dim - 3) + d - 3];
                }
            }
            any = any || delta > S(0);
            near_slots().deltas[p] = delta;
        }
        return __syncthreads_or(any);
    }

    __device__ FitShaded<S> shaded(const FitRaySlots<S>& slots, int64_t at) const {
        S y[4], by[4];
        MCLNF_UNROLL
        for (int r = 0; r < 4; ++r) y[r] = slots.outputs[r * slots.stride + at];
        activate(net_.output_activation, static_cast<S>(net_.w0), y, by);
        const bool first = rays_.density_row == 0;
        S raw[1] = {first ? y[0] : y[3]}, raw_by[1];
        S color[3], color_by[3];
        MCLNF_UNROLL
        for (int k = 0; k < 3; ++k) color[k] = first ? y[k + 1] : y[k];
        activate(kSigmoid, S(0), color, color_by);
        const bool clamped = rays_.exponential && raw[0] > rays_.max_raw_density;
        if (clamped) raw[0] = rays_.max_raw_density;
        activate(rays_.exponential ? int(kExp) : int(kRelu), S(0), raw, raw_by);
        FitShaded<S> result;
        result.density = raw[0];
        result.density_by = clamped ? S(0) : raw_by[0] * (first ? by[0] : by[3]);
        MCLNF_UNROLL
        for (int k = 0; k < 3; ++k) {
            result.color[k] = color[k];
            result.color_by[k] = color_by[k] * (first ? by[k + 1] : by[k]);
        }
        return result;
    }

    // A ray by a warp: its error, which the first lane returns.
    __device__ double composite_ray(const FitRaySlots<S>& slots, int64_t begin, const S* target, S weight,
                                    S scale, bool gradients) const {
        const int lane = FitTeam::all().lane(), bins = rays_.bins;
        S carried = S(0), pixel[3] = {};
        int last = -1;  // with a point
        for (int at = 0; at < bins; at += 32) {
            const S delta = at + lane < bins ? slots.deltas[begin + at + lane] : S(0);
            const bool point = delta > S(0);
            FitShaded<S> in = {};
            if (point) in = shaded(slots, begin + at + lane);
            const S depth = point ? in.density * delta : S(0);
            Lane total;
            const S before = carried + sums_before(Lane{depth}, total).x;
            const S w = point ? exp_of(-before) * -expm1_of(-depth) : S(0);
            for (int k = 0; k < 3; ++k) pixel[k] += w * in.color[k];
            if (at + lane < bins) slots.optical[begin + at + lane] = before;
            const unsigned points = __ballot_sync(kWarp, point);
            if (points) last = at + 31 - __clz(static_cast<int>(points));
            carried += total.x;
        }
        const S through = exp_of(-carried);
        const bool behind = rays_.last_behind && last >= 0;
        FitShaded<S> end = {};
        if (behind) end = shaded(slots, begin + last);
        __syncwarp();  // of the optical depths, and before the outputs are overwritten
        double error = 0;
        S g[3], background[3];
        for (int k = 0; k < 3; ++k) {
            background[k] = behind ? end.color[k] : S(0);
            if (!rays_.last_behind && rays_.background) background[k] = rays_.background[k];
            const S e = sum_lanes(Lane{pixel[k]}) + through * background[k] - target[k];
            const S share = weight * e;
            if (lane == 0) error += static_cast<double>(share * e);
            g[k] = S(2) * scale * layers_.raised() * share;
        }
        if (gradients) gradients_along(slots, begin, last, through, g, background);
        return error;
    }

    // From the last point to the first, since dL/dsigma_i needs the sum over the points behind it; a total
    // less a prefix would cancel.
    __device__ void gradients_along(const FitRaySlots<S>& slots, int64_t begin, int last, S through,
                                    const S (&g)[3], const S (&background)[3]) const {
        const int lane = FitTeam::all().lane(), bins = rays_.bins;
        const int density = rays_.density_row, color = density == 0 ? 1 : 0;
        S suffix = S(0);
        for (int at = (bins - 1) / 32 * 32; at >= 0; at -= 32) {
            const int i = at + lane;
            const S delta = i < bins ? slots.deltas[begin + i] : S(0);
            const bool point = delta > S(0);
            FitShaded<S> in = {};
            if (point) in = shaded(slots, begin + i);
            const S depth = point ? in.density * delta : S(0),
                    before = i < bins ? slots.optical[begin + i] : S(0);
            const S w = point ? exp_of(-before) * -expm1_of(-depth) : S(0);
            S q = S(0);
            for (int k = 0; k < 3; ++k) q += g[k] * (in.color[k] - background[k]);
            Lane total;
            const S rest = suffix + sums_after(Lane{point ? w * q : S(0)}, total).x;
            suffix += total.x;
            if (i >= bins) continue;
            const S h = delta * (exp_of(-(before + depth)) * q - rest);
            const bool ends = i == last;
            put(slots, density, begin + i, !point || (ends && rays_.hold_last) ? S(0) : h * in.density_by);
            const S share = ends && rays_.last_behind ? w + through : w;
            for (int k = 0; k < 3; ++k)
                put(slots, color + k, begin + i, point ? share * g[k] * in.color_by[k] : S(0));
        }
    }
    __device__ void put(const FitRaySlots<S>& slots, int r, int64_t at, S gradient) const {
        slots.outputs[r * slots.stride + at] = FitLayers<S, kPrecision>::written(net_.layers - 1, gradient);
    }

    const FitCall<S>& c_;
    const FitNet& net_;
    const FitRayCall<S>& rays_;
    const FitMemory<S>& mem_;
    const FitLayers<S, kPrecision>& layers_;
};

}  // namespace mclnf

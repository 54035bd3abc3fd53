// The loss of a batch and its gradients, by the threads of a block, tile after tile.
#pragma once

#include "batch.h"
#include "rays.h"
#include "scores.h"

namespace mclnf {

// kRays: whether the samples are rays; kGuided: whether they may be scored.
template <typename S, int kPrecision, bool kRays, bool kGuided>
class FitSweep {
    using Layers = FitLayers<S, kPrecision>;

  public:
    __device__ FitSweep(const FitCall<S>& call, const FitMemory<S>& memory)
        : c_(call), net_(call.net), mem_(memory), layers_(call, memory) {}

    // The sum of weighted squared errors over the block's share of the batch, a part of which each thread
    // returns; with `gradients` those of the batch's mean are in mem.grads, and what the batch asks for
    // beside them. Begins and ends with a barrier.
    __device__ double run(const FitBatch<S>& batch, bool gradients) {
        layers_.raise(scale_of(batch));
        double error;
        if constexpr (kRays)
            error = run_rays(batch, gradients);
        else
            error = run_points(batch, gradients);
        __syncthreads();
        return error;
    }

    __device__ S scale_of(const FitBatch<S>& batch) const {
        return S(1) / static_cast<S>(batch.size * (kRays ? 3 : net_.out_dim));
    }

  private:
    __device__ double run_points(const FitBatch<S>& batch, bool gradients) {
        const S scale = scale_of(batch);
        const FitScores<S, kPrecision> scores(c_, mem_, layers_);
        double error = 0;
        bool first = true;
        for (int64_t begin = batch.from; begin < batch.to; begin += layers_.points()) {
            __syncthreads();
            draw(batch, begin, layers_.points());
            __syncthreads();
            layers_.encode(
                [&](int d, int p) { return batch.x[static_cast<int64_t>(mem_.ids[p]) * net_.in_dim + d]; });
            __syncthreads();
            layers_.forward();
            error += compare(batch, scale, gradients);
            if (gradients) {
                __syncthreads();
                if constexpr (kGuided)
                    layers_.backward(first, [&](int l) { scores.add_layer(l, batch, begin); });
                else
                    layers_.backward(first, [](int) {});
                first = false;
            }
        }
        return error;
    }

    // As many whole rays as a tile holds, or one ray in several tiles. Those are computed once for the pixel
    // and once more for its gradients, since a ray's first point can't be weighed before its last one. The
    // network is in the code once: a second time, the compiler would no longer see that its memory is shared.
    __device__ double run_rays(const FitBatch<S>& batch, bool gradients) {
        const int bins = c_.rays.bins, points = layers_.points();
        const bool whole = bins <= points;
        const int together = whole ? points / bins : 1, tiles = whole ? 1 : (bins + points - 1) / points;
        const FitRayTile<S, kPrecision> tile(c_, mem_, layers_);
        const S scale = scale_of(batch);
        double error = 0;
        bool first = true;
        for (int64_t begin = batch.from; begin < batch.to; begin += together) {
            const int rays = static_cast<int>(batch.to - begin < together ? batch.to - begin : together);
            __syncthreads();
            draw(batch, begin, rays);
            __syncthreads();
            for (int turn = 0; turn < (whole || !gradients ? tiles : 2 * tiles); ++turn) {
                const bool again = turn >= tiles;
                const int bin = (again ? turn - tiles : turn) * points;
                const bool any = tile.evaluate(batch, begin, rays, bin);
                if (!whole && !again) tile.save(bin, any);
                if (turn == tiles - 1) {
                    error += tile.composite(batch, rays, scale, gradients, whole);
                    __syncthreads();
                }
                if (!gradients || !any || !(whole || again)) continue;
                if (!whole) tile.restore(bin);
                layers_.backward(first, [](int) {});
                first = false;
                __syncthreads();
            }
        }
        if (gradients && first)  // no ray has a point; -0 changes no sum of shares
            for (int i = static_cast<int>(threadIdx.x); i < net_.values; i += FitTeam::all().threads)
                mem_.grads[i] = S(-0.0);
        return error;
    }

    // A point beyond the share is that of the tile's first with weight 0, so that it is finite if that one
    // is.
    __device__ void draw(const FitBatch<S>& batch, int64_t begin, int count) const {
        for (int p = static_cast<int>(threadIdx.x); p < count; p += FitTeam::all().threads) {
            const bool inside = begin + p < batch.to;
            const int64_t j = inside ? begin + p : begin;
            bool known;
            const int64_t id = batch.id(j, known);
            S weight = batch.weight ? batch.weight[id] : S(1);
            if (batch.ids_weight) weight *= batch.ids_weight[j];
            mem_.ids[p] = static_cast<uint32_t>(id);
            mem_.weights[p] = !known ? S(NAN) : inside ? weight : S(0);
        }
    }

    // Outputs against targets: the error, and the gradient of the outputs' pre-activations in their place.
    __device__ double compare(const FitBatch<S>& batch, S scale, bool gradients) const {
        S* outputs = layers_.row(net_.outputs());
        const S w0 = static_cast<S>(net_.w0), twice = S(2) * scale * layers_.raised();
        double error = 0;
        each_value(net_.out_dim, layers_.points(), [&](int r, int p) {
            S& z = outputs[r * layers_.stride() + p];
            S value[1] = {z}, derivative[1];
            activate(net_.output_activation, w0, value, derivative);
            const S e = value[0] - batch.target[static_cast<int64_t>(mem_.ids[p]) * net_.out_dim + r];
            const S share = mem_.weights[p] * e;
            error += static_cast<double>(share * e);
            if (gradients) z = Layers::written(net_.layers - 1, twice * share * derivative[0]);
        });
        return error;
    }

    const FitCall<S>& c_;
    const FitNet& net_;
    const FitMemory<S>& mem_;
    Layers layers_;
};

}  // namespace mclnf

// The samples that a module's steps take: drawn ones side by side, and rays cut into points.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "bank_table.h"
#include "math/march.h"

namespace mclnf {

// The samples of a module: x [n, in_dim], target [n, out_dim] and, if they have weights, weight [n]. A sample
// that is a ray has its origin [3] in x, its color [3] in target, and what the field takes behind a place
// [in_dim - 3] in view.
template <class S>
struct FitSamples {
    const S *x, *target, *weight;
    int64_t n;
    const S *directions = nullptr, *view = nullptr;
};

// How rays become pixels: `bins` samples each between their entry and exit of the box, whose borders are
// jittered by the number of the step.
template <class S>
struct FitRays {
    int64_t bins;
    S near, far;
    bool jitter;
    Pixels<S> shading;  // without rays

    // Of the rays of a batch.
    March<S> march(const FitSamples<S>& batch, int64_t seed) const {
        static constexpr S kBox[6] = {-1, -1, -1, 1, 1, 1};
        March<S> march{};
        march.origins = batch.x;
        march.directions = batch.directions;
        march.aabb = kBox;
        march.near_value = near;
        march.far_value = far;
        march.levels = 1;
        for (int32_t& size : march.size) size = 1;
        march.bins = static_cast<int32_t>(bins);
        march.stratified = jitter && seed >= 0;
        march.seed = seed;
        march.max_depth = std::numeric_limits<double>::infinity();
        return march;
    }
};

// The samples of a step; no ids: all of them. `weight`, or null, is each draw's own.
template <class S>
struct FitBatch {
    const int64_t* ids;
    const S* weight;
    int64_t size;
};

// Numbers of a sample in x (and in directions), in target and in view.
struct SampleWidths {
    int64_t in, out, view;
};

// The samples begin ... end - 1 of a batch, one after the other: where they lie, or in `rows` if they are
// drawn.
template <class S>
FitSamples<S> gather(const FitSamples<S>& from, const FitBatch<S>& batch, int64_t begin, int64_t end,
                     const SampleWidths& width, std::vector<S>& rows) {
    const int64_t size = end - begin;
    if (!batch.ids)
        return {from.x + begin * width.in,
                from.target + begin * width.out,
                from.weight ? from.weight + begin : nullptr,
                size,
                from.directions ? from.directions + begin * width.in : nullptr,
                from.view ? from.view + begin * width.view : nullptr};
    const bool weighted = from.weight || batch.weight;
    rows.resize(size * (2 * width.in + width.out + 1 + width.view));
    S *to = rows.data(), *weight = to + size * (2 * width.in + width.out + width.view);
    const int64_t* ids = batch.ids + begin;
    const auto taken = [&](const S* values, int64_t count) -> const S* {
        if (!values) return nullptr;
        S* const first = to;
        for (int64_t i = 0; i < size; ++i)
            for (int64_t d = 0; d < count; ++d) *to++ = values[ids[i] * count + d];
        return first;
    };
    for (int64_t i = 0; weighted && i < size; ++i)
        weight[i] =
            (from.weight ? from.weight[ids[i]] : S(1)) * (batch.weight ? batch.weight[begin + i] : S(1));
    const S *x = taken(from.x, width.in), *target = taken(from.target, width.out),
            *directions = taken(from.directions, width.in), *view = taken(from.view, width.view);
    return {x, target, weighted ? weight : nullptr, size, directions, view};
}

// The points of rays and their spacings: as `ops.march_rays` through a box without empty parts, a point in
// the middle of each interval.
template <class S>
struct CutRays {
    std::vector<S> x, deltas;    // at least as long as the points: [n, in_dim], [n]
    std::vector<int64_t> first;  // of each ray, and behind them n

    // The rays begin ... end - 1 of a batch. jitter: the seed of it; below 0: none.
    void run(const FitRays<S>& rays, const FitSamples<S>& batch, int64_t begin, int64_t end, int64_t jitter,
             int64_t in_dim) {
        const March<S> march = rays.march(batch, jitter);
        int64_t n = 0;
        first.assign(1, 0);
        for (int64_t r = begin; r < end; ++r) {
            constexpr int kBins = 64;  // at a time
            const MarchedRay<S> ray = march_begin(march, r);
            for (int64_t at = 0; at < ray.bins; at += kBins) {
                const int m = static_cast<int>(std::min<int64_t>(ray.bins - at, kBins));
                S edges[kBins + 1];
                march_edges(march, ray, static_cast<int32_t>(at), m, edges);
                // Each by itself: the last call's field may have had fewer inputs.
                if (static_cast<int64_t>(deltas.size()) < n + m) deltas.resize(2 * (n + m));
                if (static_cast<int64_t>(x.size()) < (n + m) * in_dim) x.resize(2 * (n + m) * in_dim);
                for (int j = 0; j < m; ++j) {
                    if (!(edges[j + 1] > edges[j])) continue;
                    const S t = (edges[j] + edges[j + 1]) * S(0.5);
                    S* const to = x.data() + n * in_dim;
                    for (int axis = 0; axis < 3; ++axis)
                        to[axis] = ray.origin[axis] + ray.direction[axis] * t;
                    for (int64_t e = 3; e < in_dim; ++e) to[e] = batch.view[r * (in_dim - 3) + e - 3];
                    deltas[n++] = edges[j + 1] - edges[j];
                }
            }
            first.push_back(n);
        }
    }
};

}  // namespace mclnf

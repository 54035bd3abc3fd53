// Traversing grids on the CPU: each thread collects the samples of its share of the rays, which are then
// copied side by side. The arithmetic is csrc/math/traverse.h.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <mutex>
#include <tuple>

#include "rays.h"
#include "traverse_tensors.h"

namespace mclnf {
namespace {

// The samples of the rays from `begin` on, in order.
template <typename T>
struct TraversedShare {
    int64_t begin;
    std::vector<T> starts, ends;
    std::vector<int64_t> ids;
};

constexpr int kTile = 64;  // steps at a time: the bits of a word

// The next m <= kTile steps of a ray, between `edges`; a bit for each that is a sample. `step` moves on
// behind them. `last` is set at the ray's end.
template <typename T>
struct StepTile {
    T edges[kTile + 1];
    int m;
    uint64_t kept;
    bool last;
};

template <typename T>
MCLNF_INLINE void next_tile(const Traverse<T>& in, const TraversedRay<T>& ray, StepEdges<T>& step,
                            GridPlace<T>& place, StepTile<T>& tile) {
    T* edges = tile.edges;
    T middles[kTile];
    int32_t cells[kTile];
    edges[0] = step.left;
    if (in.cone > T(0)) {
        for (int j = 0; j < kTile; ++j) edges[j + 1] = StepEdges<T>::grown_edge(in, edges[j]);
    } else {
        const double near = static_cast<double>(ray.near), k = static_cast<double>(step.k);
        for (int j = 1; j <= kTile; ++j)
            edges[j] = static_cast<T>(near + (k + static_cast<double>(j)) * in.step);
    }
    for (int j = 0; j < kTile; ++j) middles[j] = T(0.5) * (edges[j] + edges[j + 1]);
    tile.m = 0;
    while (tile.m < kTile && middles[tile.m] < ray.exit &&
           (edges[tile.m + 1] > edges[tile.m] || in.cone <= T(0)))
        ++tile.m;
    tile.last = tile.m < kTile;
    tile.kept = 0;
    for (int j = 0; j < tile.m;) {
        if (middles[j] < ray.enter) {
            ++j;
            continue;
        }
        if (middles[j] >= place.until) place = GridPlace<T>(in, ray, middles[j]);
        int end = j + 1;
        while (end < tile.m && middles[end] < place.until) ++end;
        if (place.cells) {
            const GridPlace<T> here =
                place;  // a copy that nothing else can change, so that the loop vectorizes
            for (int i = j; i < end; ++i) cells[i] = here.cell_at(in, ray, middles[i]);
            for (int i = j; i < end; ++i) {
                const bool keep = here.cells[cells[i]] & (edges[i + 1] > edges[i]);
                tile.kept |= static_cast<uint64_t>(keep) << i;
            }
        }
        j = end;
    }
    step.k += tile.m;
    step.left = edges[tile.m];
}

// Clones can't be templates, hence one function per type.
MCLNF_CLONES void next_steps(const Traverse<float>& in, const TraversedRay<float>& ray,
                             StepEdges<float>& step, GridPlace<float>& place, StepTile<float>& tile) {
    next_tile(in, ray, step, place, tile);
}
MCLNF_CLONES void next_steps(const Traverse<double>& in, const TraversedRay<double>& ray,
                             StepEdges<double>& step, GridPlace<double>& place, StepTile<double>& tile) {
    next_tile(in, ray, step, place, tile);
}

// As traverse_steps, a tile at a time.
template <typename T, typename Emit>
T traverse_tiles(const Traverse<T>& in, const TraversedRay<T>& ray, StepEdges<T> step, const Emit& emit) {
    GridPlace<T> place;
    StepTile<T> tile;
    int64_t samples = 0;
    do {
        next_steps(in, ray, step, place, tile);
        for (uint64_t word = tile.kept; word; word &= word - 1) {
            const int j = first_bit(word);
            emit(tile.edges[j], tile.edges[j + 1]);
            if (++samples == in.limit) return tile.edges[j + 1];
        }
    } while (!tile.last);
    return step.left;
}

template <typename T, typename Emit>
T traverse_ray(const Traverse<T>& in, int64_t r, bool& too_many, const Emit& emit) {
    const TraversedRay<T> ray(in, r);
    if (!ray.any) return ray.near;
    if (in.step <= 0) return traverse_cells(in, ray, emit);
    const StepEdges<T> step(in, ray);
    too_many = step.too_many;
    return too_many ? ray.near : traverse_tiles(in, ray, step, emit);
}

using Samples = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename T>
Samples traverse_typed(const TraverseInputs& inputs) {
    const Traverse<T> in = inputs.traverse<T>();
    const int64_t rays = inputs.rays;
    Tensor packed_info = torch::stable::new_empty(inputs.origins, {rays, 2}, ScalarType::Long);
    Tensor stops = torch::stable::new_empty(inputs.origins, {rays});
    int64_t* segments = out_pointer<int64_t>(packed_info);
    T* stop = out_pointer<T>(stops);
    std::vector<TraversedShare<T>> shares;
    std::mutex mutex;
    std::atomic<bool> too_many{false};
    // A ray counts as a thousand steps, which it has unless it misses the boxes.
    parallel_rays(
        rays, [](int64_t) { return int64_t(1024); },
        [&](int64_t begin, int64_t end) {
            TraversedShare<T> share{begin, {}, {}, {}};
            for (int64_t r = begin; r < end; ++r) {
                const size_t before = share.ids.size();
                bool more = false;
                stop[r] = traverse_ray(in, r, more, [&](T left, T right) {
                    share.starts.push_back(left);
                    share.ends.push_back(right);
                    share.ids.push_back(r);
                });
                if (more) too_many = true;
                segments[2 * r + 1] = static_cast<int64_t>(share.ids.size() - before);
            }
            const std::lock_guard<std::mutex> lock(mutex);
            shares.push_back(std::move(share));
        });
    TraverseInputs::check_steps(too_many, inputs.step);
    int64_t total = 0;
    for (int64_t r = 0; r < rays; ++r) {
        segments[2 * r] = total;
        total += segments[2 * r + 1];
    }
    Tensor starts = torch::stable::new_empty(inputs.origins, {total});
    Tensor ends = torch::stable::new_empty(inputs.origins, {total});
    Tensor ids = torch::stable::new_empty(inputs.origins, {total}, ScalarType::Long);
    for (const TraversedShare<T>& share : shares) {
        const int64_t at = segments[2 * share.begin];
        std::copy(share.starts.begin(), share.starts.end(), out_pointer<T>(starts) + at);
        std::copy(share.ends.begin(), share.ends.end(), out_pointer<T>(ends) + at);
        std::copy(share.ids.begin(), share.ids.end(), out_pointer<int64_t>(ids) + at);
    }
    return {starts, ends, ids, packed_info, stops};
}

Samples traverse_grids_fwd(const Tensor& origins, const Tensor& directions, const OptTensor& mask,
                           const Tensor& cells, const Tensor& aabbs, const Tensor& enters,
                           const Tensor& exits, const Tensor& hits, const Tensor& near, const Tensor& far,
                           double step, double cone, int64_t limit) {
    const TraverseInputs in(origins, directions, mask, cells, aabbs, enters, exits, hits, near, far, step,
                            cone, limit);
    return in.is_double() ? traverse_typed<double>(in) : traverse_typed<float>(in);
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("traverse_grids_fwd", TORCH_BOX(&mclnf::traverse_grids_fwd));
}

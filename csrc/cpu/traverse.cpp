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

// Marching on CUDA: count, scan, write; one thread a ray, no atomics. The arithmetic is csrc/math/march.h.
// The size of the result is read back once.
#include <array>
#include <tuple>

#include "launch.h"
#include "march_tensors.h"

namespace mclnf {
namespace {

constexpr int64_t kTooMany = int64_t(1) << 40;  // more samples than fit any device: a ray with too many bins

// Calls keep(t_start, t_end) for every kept bin.
template <typename T, typename Keep>
__device__ void walk(const March<T>& in, const MarchedRay<T>& ray, const Keep& keep) {
    double depth = 0;
    T edges[2] = {ray.enter, ray.enter};
    for (int64_t k = 0; k < ray.bins; ++k) {
        edges[0] = edges[1];
        edges[1] = march_edge(ray, in.stratified, static_cast<int32_t>(k) + 1);
        if (march_keep<1>(in, ray, 1, edges, depth)) keep(edges[0], edges[1]);
        if (depth > in.most_depth) return;
    }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) count_kernel(March<T> in, int64_t rays, int64_t* counts) {
    const int64_t r = this_ray();
    if (r >= rays) return;
    const MarchedRay<T> ray = march_begin(in, r);
    int64_t count = 0;
    if (ray.bins > kMostBins) {
        count = kTooMany;
    } else {
        walk(in, ray, [&](T, T) { ++count; });
    }
    counts[r] = count;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    write_kernel(March<T> in, int64_t rays, const int64_t* counts, const int64_t* sums, int64_t* segments,
                 T* starts, T* ends, int64_t* ids) {
    const int64_t r = this_ray();
    if (r >= rays) return;
    int64_t at = sums[r] - counts[r];
    segments[2 * r] = at;
    segments[2 * r + 1] = counts[r];
    walk(in, march_begin(in, r), [&](T start, T end) {
        starts[at] = start;
        ends[at] = end;
        ids[at] = r;
        ++at;
    });
}

Tensor cumulative_sum(const Tensor& counts) {
    const std::optional<ScalarType> same;
    std::array<StableIValue, 3> stack{torch::stable::detail::from(counts),
                                      torch::stable::detail::from(int64_t(0)),
                                      torch::stable::detail::from(same)};
    STD_TORCH_CHECK(torch_call_dispatcher("aten::cumsum", "", stack.data(), TORCH_ABI_VERSION) == 0,
                    "march_rays: the sum of the counts failed");
    return torch::stable::detail::to<Tensor>(stack[0]);
}

using Samples = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <typename T>
Samples march_typed(const MarchInputs& inputs) {
    const March<T> in = inputs.march<T>();
    const int64_t rays = inputs.rays;
    const cudaStream_t stream = current_stream(inputs.origins);
    Tensor packed_info = torch::stable::new_empty(inputs.origins, {rays, 2}, ScalarType::Long);
    Tensor counts = torch::stable::new_empty(inputs.origins, {rays}, ScalarType::Long), sums = counts;
    int64_t total = 0;
    if (rays > 0) {
        launch(count_kernel<T>, blocks_for(rays), kThreads, 0, stream, in, rays,
               out_pointer<int64_t>(counts));
        check_cuda(cudaGetLastError(), "march_rays: count");
        sums = cumulative_sum(counts);
        check_cuda(cudaMemcpyAsync(&total, pointer<int64_t>(sums) + rays - 1, sizeof total,
                                   cudaMemcpyDeviceToHost, stream),
                   "march_rays: copy of the size");
        check_cuda(cudaStreamSynchronize(stream), "march_rays: count");
    }
    MarchInputs::check_bins(total >= kTooMany ? kMostBins + 1 : 0, inputs.step);
    Tensor starts = torch::stable::new_empty(inputs.origins, {total});
    Tensor ends = torch::stable::new_empty(inputs.origins, {total});
    Tensor ids = torch::stable::new_empty(inputs.origins, {total}, ScalarType::Long);
    if (rays > 0) {
        launch(write_kernel<T>, blocks_for(rays), kThreads, 0, stream, in, rays, pointer<int64_t>(counts),
               pointer<int64_t>(sums), out_pointer<int64_t>(packed_info), out_pointer<T>(starts),
               out_pointer<T>(ends), out_pointer<int64_t>(ids));
        check_cuda(cudaGetLastError(), "march_rays: write");
    }
    return {starts, ends, ids, packed_info};
}

Samples march_rays_fwd(const Tensor& origins, const Tensor& directions, const OptTensor& occupancy,
                       const Tensor& aabb, const OptTensor& near, const OptTensor& far, double near_value,
                       double far_value, int64_t bins, double step, bool stratified, int64_t seed,
                       double early_stop_eps) {
    const DeviceOf guard(origins);
    const MarchInputs in(origins, directions, occupancy, aabb, near, far, near_value, far_value, bins, step,
                         stratified, seed, early_stop_eps);
    return in.is_double() ? march_typed<double>(in) : march_typed<float>(in);
}

}  // namespace
}  // namespace mclnf

MCLNF_CUDA_OPS(m) { m.impl("march_rays_fwd", TORCH_BOX(&mclnf::march_rays_fwd)); }

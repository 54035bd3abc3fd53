// Traversing grids on CUDA: count, sum, write; one thread per ray, no atomics. The arithmetic is
// csrc/math/traverse.h. The size of the result is read back once.
//
// The bottleneck (estimated): the latency of the cells, which lie scattered, in both passes.
#include <tuple>

#include "cumulative.h"
#include "launch.h"
#include "traverse_tensors.h"

namespace mclnf {
namespace {

constexpr int64_t kTooMany = int64_t(1) << 40;  // more samples than fit any device: a ray with too many steps

// Calls emit(t_start, t_end) for the samples of ray r, and returns the t at which it stopped.
template <typename T, typename Emit>
__device__ T traverse_ray(const Traverse<T>& in, int64_t r, bool& too_many, const Emit& emit) {
    const TraversedRay<T> ray(in, r);
    if (!ray.any) return ray.near;
    if (in.step <= 0) return traverse_cells(in, ray, emit);
    const StepEdges<T> step(in, ray);
    too_many = step.too_many;
    return too_many ? ray.near : traverse_steps(in, ray, step, emit);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    traverse_count_kernel(Traverse<T> in, int64_t rays, int64_t* counts, T* stops) {
    const int64_t r = this_ray();
    if (r >= rays) return;
    int64_t count = 0;
    bool too_many = false;
    stops[r] = traverse_ray(in, r, too_many, [&](T, T) { ++count; });
    counts[r] = too_many ? kTooMany : count;
}

template <typename T>
struct TraversedSamples {
    int64_t* segments;  // [R, 2]
    T *starts, *ends;
    int64_t* ids;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    traverse_write_kernel(Traverse<T> in, int64_t rays, const int64_t* counts, const int64_t* sums,
                          TraversedSamples<T> out) {
    const int64_t r = this_ray();
    if (r >= rays) return;
    int64_t at = sums[r] - counts[r];
    out.segments[2 * r] = at;
    out.segments[2 * r + 1] = counts[r];
    if (counts[r] == 0) return;
    bool too_many = false;
    traverse_ray(in, r, too_many, [&](T left, T right) {
        out.starts[at] = left;
        out.ends[at] = right;
        out.ids[at] = r;
        ++at;
    });
}

using Samples = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename T>
Samples traverse_typed(const TraverseInputs& inputs) {
    const Traverse<T> in = inputs.traverse<T>();
    const int64_t rays = inputs.rays;
    const cudaStream_t stream = current_stream(inputs.origins);
    const unsigned blocks = blocks_for(rays);
    Tensor packed_info = torch::stable::new_empty(inputs.origins, {rays, 2}, ScalarType::Long);
    Tensor stops = torch::stable::new_empty(inputs.origins, {rays});
    Tensor counts = torch::stable::new_empty(inputs.origins, {rays}, ScalarType::Long), sums = counts;
    int64_t total = 0;
    if (rays > 0) {
        launch(traverse_count_kernel<T>, blocks, kThreads, 0, stream, in, rays, out_pointer<int64_t>(counts),
               out_pointer<T>(stops));
        check_cuda(cudaGetLastError(), "traverse_grids: count");
        sums = cumulative_sum(counts, "traverse_grids");
        check_cuda(cudaMemcpyAsync(&total, pointer<int64_t>(sums) + rays - 1, sizeof total,
                                   cudaMemcpyDeviceToHost, stream),
                   "traverse_grids: copy of the size");
        check_cuda(cudaStreamSynchronize(stream), "traverse_grids: count");
    }
    TraverseInputs::check_steps(total >= kTooMany, inputs.step);
    Tensor starts = torch::stable::new_empty(inputs.origins, {total});
    Tensor ends = torch::stable::new_empty(inputs.origins, {total});
    Tensor ids = torch::stable::new_empty(inputs.origins, {total}, ScalarType::Long);
    if (rays > 0) {
        const TraversedSamples<T> out{out_pointer<int64_t>(packed_info), out_pointer<T>(starts),
                                      out_pointer<T>(ends), out_pointer<int64_t>(ids)};
        launch(traverse_write_kernel<T>, blocks, kThreads, 0, stream, in, rays, pointer<int64_t>(counts),
               pointer<int64_t>(sums), out);
        check_cuda(cudaGetLastError(), "traverse_grids: write");
    }
    return {starts, ends, ids, packed_info, stops};
}

Samples traverse_grids_fwd(const Tensor& origins, const Tensor& directions, const OptTensor& mask,
                           const Tensor& cells, const Tensor& aabbs, const Tensor& enters,
                           const Tensor& exits, const Tensor& hits, const Tensor& near, const Tensor& far,
                           double step, double cone, int64_t limit) {
    const DeviceOf guard(origins);
    const TraverseInputs in(origins, directions, mask, cells, aabbs, enters, exits, hits, near, far, step,
                            cone, limit);
    return in.is_double() ? traverse_typed<double>(in) : traverse_typed<float>(in);
}

}  // namespace
}  // namespace mclnf

MCLNF_CUDA_OPS(m) { m.impl("traverse_grids_fwd", TORCH_BOX(&mclnf::traverse_grids_fwd)); }

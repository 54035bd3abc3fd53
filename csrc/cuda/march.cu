// Marching on CUDA: count, scan, write; no atomics. The arithmetic is csrc/math/march.h. The size of the
// result is read back once. One warp per ray works on 32 bins at a time and stores a bit for each, so that
// the write pass need not look at the cells again; of rays of at most 32 bins, one thread per ray.
//
// The bottlenecks (estimated): of the count pass the latency of the cells, which lie scattered (a warp
// asks for 32 at a time) and, if rays are many and short, the arithmetic of the box test, which each lane
// does for itself; of the write pass memory, 16 bytes per sample (float32) in lines written whole.
#include <algorithm>
#include <tuple>

#include "cumulative.h"
#include "launch.h"
#include "march_tensors.h"

namespace mclnf {
namespace {

constexpr int64_t kTooMany = int64_t(1) << 40;  // more samples than fit any device: a ray with too many bins
constexpr int64_t kMaxWords = 32;               // of 32 bins each, whose bits are stored; 128 bytes per ray

// Which bins the count pass kept, for the write pass: words of 32 bits, at most kMaxWords per ray.
struct KeptBins {
    uint32_t* bits;  // [R, words]
    int64_t words;
};

template <typename T>
struct MarchedSamples {
    int64_t* segments;  // [R, 2]
    T *starts, *ends;
    int64_t* ids;

    __device__ void write(int64_t at, int64_t r, const T* edges) const {
        starts[at] = edges[0];
        ends[at] = edges[1];
        ids[at] = r;
    }
};

// Whether bin k, whose edges go into `edges`, is kept as far as its cell is concerned; its optical depth goes
// into `depth`.
template <typename T>
__device__ bool keep_bin(const March<T>& in, const MarchedRay<T>& ray, int64_t k, T* edges, double& depth) {
    depth = 0;
    edges[0] = march_edge(ray, in.stratified, static_cast<int32_t>(k));
    edges[1] = march_edge(ray, in.stratified, static_cast<int32_t>(k) + 1);
    return march_keep<1>(in, ray, 1, edges, depth) != 0;
}

// The bits of the bins before the first that no light reaches; depth: before the first bin, then behind the
// last. Added bin after bin, as on every device.
__device__ uint32_t lit_bins(uint32_t word, double bin_depth, double max_depth, double& depth) {
    for (uint32_t rest = word; rest; rest &= rest - 1) {
        const int bin = __ffs(static_cast<int>(rest)) - 1;
        if (depth > max_depth) return word & ((1u << bin) - 1u);
        depth += __shfl_sync(0xffffffffu, bin_depth, bin);
    }
    return word;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    count_kernel(March<T> in, int64_t rays, KeptBins kept, int64_t* counts) {
    const int64_t r = this_thread() / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    if (r >= rays) return;
    const MarchedRay<T> ray = march_begin(in, r);
    const bool stops = in.density && is_finite(in.max_depth);
    int64_t count = ray.bins > kMaxBins ? kTooMany : 0;
    double depth = 0;
    for (int64_t first = 0; first < ray.bins && count < kTooMany; first += 32) {
        T edges[2];
        double bin_depth = 0;
        const bool keep = first + lane < ray.bins && keep_bin(in, ray, first + lane, edges, bin_depth);
        uint32_t word = __ballot_sync(0xffffffffu, keep);
        if (stops) word = lit_bins(word, bin_depth, in.max_depth, depth);
        if (lane == 0 && first / 32 < kept.words) kept.bits[r * kept.words + first / 32] = word;
        count += __popc(word);
        if (depth > in.max_depth) break;  // the write pass stops at the count
    }
    if (lane == 0) counts[r] = count;
}

// The bins kept are the first counts[r] whose cells are occupied: beyond the stored bits, light need not be
// followed again.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    write_kernel(March<T> in, int64_t rays, KeptBins kept, const int64_t* counts, const int64_t* sums,
                 MarchedSamples<T> out) {
    const int64_t r = this_thread() / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    if (r >= rays) return;
    const int64_t end = sums[r];
    int64_t at = end - counts[r];
    if (lane < 2) out.segments[2 * r + lane] = lane == 0 ? at : counts[r];
    if (at == end) return;
    const MarchedRay<T> ray = march_begin(in, r);
    for (int64_t first = 0; first < ray.bins && at < end; first += 32) {
        T edges[2];
        double bin_depth = 0;
        uint32_t word = 0;
        if (first / 32 < kept.words) {
            word = kept.bits[r * kept.words + first / 32];
            if (word == 0) continue;
            march_edges(in, ray, static_cast<int32_t>(first) + lane, 1, edges);
        } else {
            const bool keep = first + lane < ray.bins && keep_bin(in, ray, first + lane, edges, bin_depth);
            word = __ballot_sync(0xffffffffu, keep);
        }
        const int64_t place = at + __popc(word & ((1u << lane) - 1u));
        if ((word >> lane & 1u) && place < end) out.write(place, r, edges);
        at += __popc(word);
    }
}

// Rays of at most 32 bins: one thread and one word per ray. A warp would be idle but for a few lanes.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    count_few_kernel(March<T> in, int64_t rays, KeptBins kept, int64_t* counts) {
    const int64_t r = this_ray();
    if (r >= rays) return;
    const MarchedRay<T> ray = march_begin(in, r);
    uint32_t word = 0;
    double depth = 0;
    for (int64_t k = 0; k < ray.bins && !(depth > in.max_depth); ++k) {
        T edges[2];
        double bin_depth = 0;
        word |= static_cast<uint32_t>(keep_bin(in, ray, k, edges, bin_depth)) << k;
        depth += bin_depth;
    }
    kept.bits[r] = word;
    counts[r] = __popc(word);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    write_few_kernel(March<T> in, int64_t rays, KeptBins kept, const int64_t* counts, const int64_t* sums,
                     MarchedSamples<T> out) {
    const int64_t r = this_ray();
    if (r >= rays) return;
    int64_t at = sums[r] - counts[r];
    out.segments[2 * r] = at;
    out.segments[2 * r + 1] = counts[r];
    uint32_t word = kept.bits[r];
    if (word == 0) return;
    const MarchedRay<T> ray = march_begin(in, r);
    for (; word; word &= word - 1) {
        T edges[2];
        march_edges(in, ray, __ffs(static_cast<int>(word)) - 1, 1, edges);
        out.write(at++, r, edges);
    }
}

using Samples = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <typename T>
Samples march_typed(const MarchInputs& inputs) {
    const March<T> in = inputs.march<T>();
    const int64_t rays = inputs.rays;
    const cudaStream_t stream = current_stream(inputs.origins);
    const bool few = in.bins > 0 && in.bins <= 32;
    const unsigned blocks = blocks_for(rays, few ? kThreads : kThreads / 32);
    const int64_t words = in.bins > 0 ? std::min<int64_t>((in.bins + 31) / 32, kMaxWords) : kMaxWords;
    Tensor packed_info = torch::stable::new_empty(inputs.origins, {rays, 2}, ScalarType::Long);
    Tensor counts = torch::stable::new_empty(inputs.origins, {rays}, ScalarType::Long), sums = counts;
    Tensor bits = torch::stable::new_empty(inputs.origins, {rays, words}, ScalarType::Int);
    const KeptBins kept{reinterpret_cast<uint32_t*>(out_pointer<int32_t>(bits)), words};
    int64_t total = 0;
    if (rays > 0) {
        launch(few ? count_few_kernel<T> : count_kernel<T>, blocks, kThreads, 0, stream, in, rays, kept,
               out_pointer<int64_t>(counts));
        check_cuda(cudaGetLastError(), "march_rays: count");
        sums = cumulative_sum(counts, "march_rays");
        check_cuda(cudaMemcpyAsync(&total, pointer<int64_t>(sums) + rays - 1, sizeof total,
                                   cudaMemcpyDeviceToHost, stream),
                   "march_rays: copy of the size");
        check_cuda(cudaStreamSynchronize(stream), "march_rays: count");
    }
    MarchInputs::check_bins(total >= kTooMany ? kMaxBins + 1 : 0, inputs.step);
    Tensor starts = torch::stable::new_empty(inputs.origins, {total});
    Tensor ends = torch::stable::new_empty(inputs.origins, {total});
    Tensor ids = torch::stable::new_empty(inputs.origins, {total}, ScalarType::Long);
    if (rays > 0) {
        const MarchedSamples<T> out{out_pointer<int64_t>(packed_info), out_pointer<T>(starts),
                                    out_pointer<T>(ends), out_pointer<int64_t>(ids)};
        launch(few ? write_few_kernel<T> : write_kernel<T>, blocks, kThreads, 0, stream, in, rays, kept,
               pointer<int64_t>(counts), pointer<int64_t>(sums), out);
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

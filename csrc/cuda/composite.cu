// Alpha compositing on CUDA: one warp per ray, or one thread per ray if rays are short; no atomics. The
// arithmetic is csrc/math/composite*.h, over lanes that are the threads of a warp (math/warp_lanes.h) or one
// number.
//
// The bottleneck (estimated): with one warp per ray, memory; the forward moves 7 numbers per
// sample (with 3 channels), each once, in lines that the warp reads whole. One thread per ray reads 32 rays
// at a time, each from a line of its own, and is bound by the load unit, which takes a line at a time.
#include "composite_tensors.h"
#include "launch.h"
#include "math/warp_lanes.h"

namespace mclnf {
namespace {

// Samples per ray, on average, from which a warp works on each. The forward of a sample by a thread is about
// 7 loads and stores of a line each, so 7 cycles of the load unit of a multiprocessor; a group of up to 32
// samples by a warp is about 230 instructions of 4 a cycle, so 57 cycles, however full the group is: as much
// as 8 samples by threads. The backward passes come to about the same, with more of both.
constexpr int64_t kWarpFrom = 8;

// The ray of this thread, if lanes of V are its own, or of its warp.
template <typename V>
__device__ int64_t ray_of() {
    return this_thread() / Lanes<V>::kThreads;
}

// Calls zero(i) for this thread's share of the samples of no ray, whose results read zero: those before its
// ray, which it shares with the ray's other threads, and those behind the last, which all threads share.
template <typename V, typename T, typename F>
__device__ void each_gap(const CompositeBatch<T>& in, int64_t r, const F& zero) {
    if (!in.segments) return;
    const int64_t before = r < in.rays ? in.first(r) : 0, all = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t i = (r > 0 && before > 0 ? in.end(r - 1) : 0) + Lanes<V>::thread(); i < before;
         i += Lanes<V>::kThreads)
        zero(i);
    for (int64_t i = in.end(in.rays - 1) + this_thread(); i < in.samples; i += all) zero(i);
}

template <typename T>
__device__ void zero_color(const CompositeBatch<T>& in, T* color, int64_t i) {
    for (int c = 0; c < in.channels; ++c) color[i * in.channels + c] = 0;
}

template <int kC, typename V, typename T>
__global__ void __launch_bounds__(kThreads) forward_kernel(CompositeBatch<T> in, CompositeOutputs<T> out) {
    const int64_t r = ray_of<V>();
    each_gap<V>(in, r, [&](int64_t i) { out.weights[i] = 0; });
    if (r < in.rays) forward_ray<kC, V>(in, out, r);
}

template <int kC, typename V, typename T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(CompositeBatch<T> in, BatchCotangents<T> g, CompositeGradients<T> out) {
    const int64_t r = ray_of<V>();
    each_gap<V>(in, r, [&](int64_t i) {
        out.density[i] = 0;
        if (out.color) zero_color(in, out.color, i);
        if (out.t_start) out.t_start[i] = out.t_end[i] = 0;
    });
    if (r < in.rays) backward_ray<kC, V>(in, g, out, r);
}

template <int kC, typename V, typename T>
__global__ void __launch_bounds__(kThreads) second_kernel(CompositeBatch<T> in, BatchCotangents<T> g,
                                                          CompositeTangents<T> v, CompositeSecond<T> out) {
    const int64_t r = ray_of<V>();
    each_gap<V>(in, r, [&](int64_t i) {
        out.density[i] = out.t_start[i] = out.t_end[i] = out.grad_weights[i] = 0;
        zero_color(in, out.color, i);
    });
    if (r < in.rays) second_ray<kC, V>(in, g, v, out, r);
}

// Calls f with C, as a constant if it is 3, and a number of type V: the kernel's template arguments.
template <typename T, typename F>
void choose(const CompositeBatch<T>& in, const F& f) {
    const bool warps = in.samples >= kWarpFrom * in.rays;
    if (in.rays == 0) return;
    const auto with_lanes = [&](auto channels) {
        if (warps) {
            f(channels, WarpLane<T>{}, blocks_for(in.rays, kThreads / 32));
        } else {
            f(channels, T{}, blocks_for(in.rays));
        }
    };
    if (in.channels == 3) {
        with_lanes(std::integral_constant<int, 3>{});
    } else {
        with_lanes(std::integral_constant<int, 0>{});
    }
}

class Cuda {
  public:
    using Guard = DeviceOf;

    explicit Cuda(const CompositeInputs& in) : stream_(current_stream(in.density)) {}

    // The values of packed_info are not looked at, which would have to wait; the kernels stay inside the
    // arrays and clear the samples of no ray themselves, without a pass over the memory of its own. Where
    // there is no ray at all, there is no kernel.
    bool check(const CompositeInputs& in) const { return in.rays == 0; }

    template <typename T>
    void forward(const CompositeBatch<T>& in, const CompositeOutputs<T>& out) const {
        choose(in, [&](auto channels, auto lane, unsigned blocks) {
            launch(forward_kernel<decltype(channels)::value, decltype(lane), T>, blocks, kThreads, 0, stream_,
                   in, out);
        });
        check_cuda(cudaGetLastError(), "composite_fwd");
    }

    template <typename T>
    void backward(const CompositeBatch<T>& in, const BatchCotangents<T>& g,
                  const CompositeGradients<T>& out) const {
        choose(in, [&](auto channels, auto lane, unsigned blocks) {
            launch(backward_kernel<decltype(channels)::value, decltype(lane), T>, blocks, kThreads, 0,
                   stream_, in, g, out);
        });
        check_cuda(cudaGetLastError(), "composite_bwd");
    }

    template <typename T>
    void second(const CompositeBatch<T>& in, const BatchCotangents<T>& g, const CompositeTangents<T>& v,
                const CompositeSecond<T>& out) const {
        choose(in, [&](auto channels, auto lane, unsigned blocks) {
            launch(second_kernel<decltype(channels)::value, decltype(lane), T>, blocks, kThreads, 0, stream_,
                   in, g, v, out);
        });
        check_cuda(cudaGetLastError(), "composite_bwd_bwd");
    }

    // torch's sum over an axis adds in a fixed order.
    template <typename T>
    Tensor sum_rays(const CompositeInputs&, const Tensor& by_ray) const {
        const int64_t first_axis = 0;
        return torch::stable::sum(by_ray, torch::headeronly::IntHeaderOnlyArrayRef(&first_axis, 1));
    }

  private:
    cudaStream_t stream_;
};

}  // namespace
}  // namespace mclnf

MCLNF_CUDA_OPS(m) {
    m.impl("composite_fwd", TORCH_BOX(&mclnf::composite_fwd<mclnf::Cuda>));
    m.impl("composite_bwd", TORCH_BOX(&mclnf::composite_bwd<mclnf::Cuda>));
    m.impl("composite_bwd_bwd", TORCH_BOX(&mclnf::composite_bwd_bwd<mclnf::Cuda>));
}

// Alpha compositing on CUDA: a warp a ray, or a thread a ray where rays are short; no atomics. The arithmetic
// is csrc/math/composite*.h, over lanes that are the threads of a warp (math/warp_lanes.h) or one number.
//
// What binds, by count (to be measured): with a warp a ray, memory; the forward moves 7 numbers a sample
// (with 3 channels), each once, in lines that the warp reads whole. A thread a ray reads 32 rays at a time,
// each from a line of its own, and is bound by the load unit, which takes a line at a time.
#include "composite_tensors.h"
#include "launch.h"
#include "math/warp_lanes.h"

namespace mclnf {
namespace {

// Samples a ray, on average, from which a warp works on each. The forward of a sample by a thread is about 7
// loads and stores of a line each, so 7 cycles of the load unit of a multiprocessor; a group of up to 32
// samples by a warp is about 230 instructions of 4 a cycle, so 57 cycles, whatever is in the group: as much
// as 8 samples by threads. The backward passes come to about the same, with more of both.
constexpr int64_t kWarpFrom = 8;

// The ray of this thread, if lanes of V are its own, or of its warp.
template <typename V>
__device__ int64_t ray_of() {
    return this_ray() / Lanes<V>::kThreads;
}

template <int kC, typename V, typename T>
__global__ void __launch_bounds__(kThreads) forward_kernel(CompositeBatch<T> in, CompositeOutputs<T> out) {
    const int64_t r = ray_of<V>();
    if (r < in.rays) forward_ray<kC, V>(in, out, r);
}

template <int kC, typename V, typename T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(CompositeBatch<T> in, BatchCotangents<T> g, CompositeGradients<T> out) {
    const int64_t r = ray_of<V>();
    if (r < in.rays) backward_ray<kC, V>(in, g, out, r);
}

template <int kC, typename V, typename T>
__global__ void __launch_bounds__(kThreads) second_kernel(CompositeBatch<T> in, BatchCotangents<T> g,
                                                          CompositeTangents<T> v, CompositeSecond<T> out) {
    const int64_t r = ray_of<V>();
    if (r < in.rays) second_ray<kC, V>(in, g, v, out, r);
}

// Calls f with C, as a constant where it is 3, and a number of type V: the kernel's template arguments.
template <typename T, typename F>
void choose(const CompositeBatch<T>& in, const F& f) {
    const bool warps = in.samples >= kWarpFrom * in.rays;
    const auto with_lanes = [&](auto channels) {
        if (warps) {
            f(channels, WarpLane<T>{}, blocks_for(in.rays, kThreads / 32));
        } else {
            f(channels, T{}, blocks_for(in.rays));
        }
    };
    if (in.rays == 0) return;
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
    // arrays.
    bool check(const CompositeInputs& in) const { return in.packed_info.has_value(); }

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

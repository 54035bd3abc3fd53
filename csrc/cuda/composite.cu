// Alpha compositing on CUDA: one thread a ray, no atomics. The arithmetic is csrc/math/composite*.h.
#include "composite_tensors.h"
#include "launch.h"

namespace mclnf {
namespace {

template <int kC, typename T>
__global__ void __launch_bounds__(kThreads) forward_kernel(CompositeBatch<T> in, CompositeOutputs<T> out) {
    const int64_t r = this_ray();
    if (r < in.rays) forward_ray<kC, T>(in, out, r);
}

template <int kC, typename T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(CompositeBatch<T> in, BatchCotangents<T> g, CompositeGradients<T> out) {
    const int64_t r = this_ray();
    if (r < in.rays) backward_ray<kC, T>(in, g, out, r);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) second_kernel(CompositeBatch<T> in, BatchCotangents<T> g,
                                                          CompositeTangents<T> v, CompositeSecond<T> out) {
    const int64_t r = this_ray();
    if (r < in.rays) second_ray<0, T>(in, g, v, out, r);
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
        if (in.rays == 0) return;
        if (in.channels == 3) {
            launch(forward_kernel<3, T>, blocks_for(in.rays), kThreads, 0, stream_, in, out);
        } else {
            launch(forward_kernel<0, T>, blocks_for(in.rays), kThreads, 0, stream_, in, out);
        }
        check_cuda(cudaGetLastError(), "composite_fwd");
    }

    template <typename T>
    void backward(const CompositeBatch<T>& in, const BatchCotangents<T>& g,
                  const CompositeGradients<T>& out) const {
        if (in.rays == 0) return;
        if (in.channels == 3) {
            launch(backward_kernel<3, T>, blocks_for(in.rays), kThreads, 0, stream_, in, g, out);
        } else {
            launch(backward_kernel<0, T>, blocks_for(in.rays), kThreads, 0, stream_, in, g, out);
        }
        check_cuda(cudaGetLastError(), "composite_bwd");
    }

    template <typename T>
    void second(const CompositeBatch<T>& in, const BatchCotangents<T>& g, const CompositeTangents<T>& v,
                const CompositeSecond<T>& out) const {
        if (in.rays == 0) return;
        launch(second_kernel<T>, blocks_for(in.rays), kThreads, 0, stream_, in, g, v, out);
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

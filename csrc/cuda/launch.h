// One thread a ray: what the per-ray CUDA kernels share.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "tensors.h"

namespace mclnf {

constexpr int kThreads = 128;

// Makes the tensor's device current while it lives.
struct DeviceOf {
    torch::stable::accelerator::DeviceGuard guard;
    explicit DeviceOf(const Tensor& t) : guard(t.get_device_index()) {}
};

inline cudaStream_t current_stream(const Tensor& t) {
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream) == 0,
                    "no current CUDA stream");
    return static_cast<cudaStream_t>(stream);
}

inline void check_cuda(cudaError_t error, const char* what) {
    STD_TORCH_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

inline unsigned blocks_for(int64_t rays) {
    const int64_t blocks = (rays + kThreads - 1) / kThreads;
    STD_TORCH_CHECK(blocks <= 0x7fffffff, "too many rays for one launch: ", rays);
    return static_cast<unsigned>(blocks);
}

__device__ inline int64_t this_ray() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

}  // namespace mclnf

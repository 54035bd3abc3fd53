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

// The architectures that this library holds code for, as nvcc was told them: "800,900,1000".
#define MCLNF_STRING_OF(...) #__VA_ARGS__
#define MCLNF_STRING(...) MCLNF_STRING_OF(__VA_ARGS__)
#ifdef __CUDA_ARCH_LIST__
constexpr const char* kArchitectures = MCLNF_STRING(__CUDA_ARCH_LIST__);
#else
constexpr const char* kArchitectures = "unknown";
#endif

inline void check_cuda(cudaError_t error, const char* what) {
#ifdef __CUDACC__
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
        int device = 0, major = 0, minor = 0;
        if (cudaGetDevice(&device) == cudaSuccess) {
            cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
            cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
        }
        STD_TORCH_CHECK(false, what, ": ", cudaGetErrorString(error), ": the device has compute capability ",
                        major, ".", minor, ", the CUDA library holds code for ", kArchitectures,
                        " (hundreds: 900 is 9.0). Remedy: build with TORCH_CUDA_ARCH_LIST=", major, ".",
                        minor, " or take backend='reference'");
    }
#endif
    STD_TORCH_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

inline unsigned blocks_for(int64_t rays) {
    const int64_t blocks = (rays + kThreads - 1) / kThreads;
    STD_TORCH_CHECK(blocks <= 0x7fffffff, "too many rays for one launch: ", rays);
    return static_cast<unsigned>(blocks);
}

__device__ inline int64_t this_ray() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

}  // namespace mclnf

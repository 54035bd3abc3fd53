// Launches and streams, shared by the CUDA kernels. Also compiled without nvcc, by the tests'
// emulation of blocks on the CPU (tests/ops/cuda_emulation): hence no chevrons and no extern shared memory
// but here.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "tensors.h"

// MCLNF_CUDA_OPS(m) { m.impl(...); } registers the kernels of a file.
#ifdef __CUDACC__
#define MCLNF_CUDA_OPS(m) STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CUDA, m)
#else
#define MCLNF_CUDA_OPS(m) STABLE_TORCH_LIBRARY_IMPL(mclnf_fast_emulated, CPU, m)
#endif

namespace mclnf {

constexpr int kThreads = 128;  // of a block with one thread per ray

// The architectures that this library holds code for, as nvcc names them: "800,900,1000".
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

#ifdef __CUDACC__
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

// kernel<<<blocks, threads, shared, stream>>>(args...); check cudaGetLastError afterwards.
template <typename... P, typename... A>
void launch(void (*kernel)(P...), dim3 blocks, dim3 threads, size_t shared, cudaStream_t stream,
            const A&... args) {
    kernel<<<blocks, threads, shared, stream>>>(args...);
}

// The same of blocks that wait for each other (wait_for): all run at the same time, or the launch fails.
template <typename... P, typename... A>
void launch_together(void (*kernel)(P...), dim3 blocks, dim3 threads, size_t shared, cudaStream_t stream,
                     A&... args) {
    void* list[] = {&args...};
    cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), blocks, threads, list, shared, stream);
}

// Waits until the count in global memory has come to `target`; what was written before it is seen behind a
// fence.
__device__ inline void wait_for(const unsigned long long* count, unsigned long long target) {
    while (*static_cast<const volatile unsigned long long*>(count) < target) {
    }
}

// The `shared` bytes of the launch.
template <typename T>
__device__ T* dynamic_shared() {
    extern __shared__ __align__(16) unsigned char mclnf_shared[];
    return reinterpret_cast<T*>(mclnf_shared);
}
#else
struct DeviceOf {
    explicit DeviceOf(const Tensor&) {}
};

inline cudaStream_t current_stream(const Tensor&) { return nullptr; }

template <typename... P, typename... A>
void launch(void (*kernel)(P...), dim3 blocks, dim3 threads, size_t shared, cudaStream_t, const A&... args) {
    emulation::run_grid(blocks, threads, shared, [&] { kernel(args...); });
}

template <typename... P, typename... A>
void launch_together(void (*kernel)(P...), dim3 blocks, dim3 threads, size_t shared, cudaStream_t,
                     A&... args) {
    emulation::run_together(blocks, threads, shared, [&] { kernel(args...); });
}

inline void wait_for(const unsigned long long* count, unsigned long long target) {
    emulation::wait_until("wait_for", [=] { return *count >= target; });
}

template <typename T>
T* dynamic_shared() {
    return reinterpret_cast<T*>(emulation::dynamic_shared());
}
#endif

inline unsigned blocks_for(int64_t rays, int64_t per_block = kThreads) {
    const int64_t blocks = (rays + per_block - 1) / per_block;
    STD_TORCH_CHECK(blocks <= 0x7fffffff, "too many rays for one launch: ", rays);
    return static_cast<unsigned>(blocks);
}

// In a grid of blocks of kThreads: this thread's number, which is its ray's if it has one of its own.
__device__ inline int64_t this_thread() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }
__device__ inline int64_t this_ray() { return this_thread(); }

}  // namespace mclnf

// The kernel of `bank_fit`, and its launch.
#pragma once

#include <algorithm>

#include "steps.h"

namespace mclnf {
namespace {

// Blocks take the next module when they are done with one: who takes which does not show in what it learns.
template <typename S, bool kNear, int kPrecision, bool kRays, bool kGuided>
__global__ void __launch_bounds__(kFitMostThreads, 1) fit_kernel(const __grid_constant__ FitCall<S> call) {
    const FitMemory<S> memory = fit_memory<S, kNear>(call);
    const int numbers = call.net.rows() * (call.plan.points + 4);
    for (int i = static_cast<int>(threadIdx.x); i < numbers; i += FitTeam::all().threads)
        memory.acts[i] = S(0);
    for (int i = static_cast<int>(threadIdx.x); i < call.net.values; i += FitTeam::all().threads)
        memory.params[i] = S(0);
    FitSteps<S, kPrecision, kRays, kGuided> steps(call, memory);
    for (;;) {
        __syncthreads();  // of the zeros, and of who reads the last module's number
        if (threadIdx.x == 0) *memory.module = atomicAdd(call.next, 1);
        __syncthreads();
        const int64_t module = *memory.module;
        if (module >= call.modules) break;
        steps.run(module);
    }
}

inline int attribute(cudaDeviceAttr which) {
    int device = 0, value = 0;
    check_cuda(cudaGetDevice(&device), "bank_fit");
    check_cuda(cudaDeviceGetAttribute(&value, which, device), "bank_fit");
    return value;
}

inline FitLimits device_limits() {
    return {attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
            attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)};
}

}  // namespace

// Each file of fits has one precision's, since they take the compiler long.
template <typename S, int kPrecision, bool kRays, bool kGuided>
void launch_fit(FitCall<S>& call, const Tensor& like, cudaStream_t stream) {
    FitPlan& plan = call.plan;
    if (call.rays.bins > plan.points)
        plan.workspace += in_sixteens(kFitRayNumbers * static_cast<int64_t>(call.rays.bins) * sizeof(S));
    const int64_t blocks = std::min<int64_t>(
        call.modules, static_cast<int64_t>(attribute(cudaDevAttrMultiProcessorCount)) * plan.blocks);
    const Tensor workspace = torch::stable::new_empty(like, {blocks * plan.workspace}, ScalarType::Byte);
    const Tensor next = torch::stable::new_zeros(like, {1}, ScalarType::Int);
    call.workspace = out_pointer<unsigned char>(workspace);
    call.next = out_pointer<int>(next);
    auto kernel = fit_kernel<S, false, kPrecision, kRays, kGuided>;
    // Of float64, and of rays in 16 bits, the general one alone: a kernel takes the compiler ten seconds per
    // architecture.
    if constexpr (sizeof(S) == 4 && !(kRays && kPrecision >= kBf16))
        if (plan.near()) kernel = fit_kernel<S, true, kPrecision, kRays, kGuided>;
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(plan.shared)),
               "bank_fit");
    launch(kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(plan.threads),
           static_cast<size_t>(plan.shared), stream, call);
    check_cuda(cudaGetLastError(), "bank_fit");
}

}  // namespace mclnf

// The kernel of `bank_fit`, and its launch.
#pragma once

#include <algorithm>

#include "network.h"
#include "steps.h"

namespace mclnf {
namespace {

// Blocks, or groups of them, take the next module when they are done with one: who takes which does not show
// in what it learns.
template <typename S, bool kNear, int kPrecision, bool kRays, bool kGuided, bool kShared>
__global__ void __launch_bounds__(kFitMostThreads, 1) fit_kernel(const __grid_constant__ FitCall<S> call) {
    const FitMemory<S> memory = fit_memory<S, kNear>(call);
    const int numbers = call.net.rows() * (call.plan.points + 4);
    for (int i = static_cast<int>(threadIdx.x); i < numbers; i += FitTeam::all().threads)
        memory.acts[i] = S(0);
    for (int i = static_cast<int>(threadIdx.x); i < call.net.values; i += FitTeam::all().threads)
        memory.params[i] = S(0);
    FitSteps<S, kPrecision, kRays, kGuided, kShared> steps(call, memory);
    const FitGroup<S> group(call);
    if constexpr (kShared) group.begin(memory.module);
    for (;;) {
        __syncthreads();  // of the zeros, and of who reads the last module's number
        if (threadIdx.x == 0) {
            if constexpr (kShared)
                group.take_module(memory.module);
            else
                *memory.module = atomicAdd(call.next, 1);
        }
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
    auto alone = fit_kernel<S, false, kPrecision, kRays, kGuided, false>;
    // Of float64, and of rays in 16 bits, the general one alone: a kernel takes the compiler ten seconds per
    // architecture. Of those that share a module, in 16 bits too.
    if constexpr (sizeof(S) == 4 && !(kRays && kPrecision >= kBf16))
        if (plan.near()) alone = fit_kernel<S, true, kPrecision, kRays, kGuided, false>;
    auto shared = alone;
    if constexpr (!kGuided) shared = fit_kernel<S, false, kPrecision, kRays, false, true>;
    if constexpr (!kGuided && sizeof(S) == 4 && kPrecision < kBf16)
        if (plan.near()) shared = fit_kernel<S, true, kPrecision, kRays, false, true>;
    for (const auto kernel : {alone, shared})
        check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(plan.shared)),
                   "bank_fit");
    const size_t bytes = static_cast<size_t>(plan.shared);
    int together = 0;
    check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&together, shared, plan.threads, bytes),
               "bank_fit");
    const int64_t processors = attribute(cudaDevAttrMultiProcessorCount);
    const FitGroups groups =
        kGuided ? FitGroups{1, 0, 0}
                : fit_groups(fit_shape(call.net, sizeof(S), call.adam, 0), plan, call.most(), call.rays.bins,
                             call.modules, processors, std::max(1, std::min(plan.blocks, together)));
    const int64_t group_count = groups.blocks > 1 ? groups.groups
                                                  : std::min<int64_t>(call.modules, processors * plan.blocks),
                  blocks = group_count * groups.blocks;
    const auto zeros = [&](int64_t count) {
        return torch::stable::new_zeros(like, {count}, ScalarType::Byte);
    };
    const Tensor workspace = torch::stable::new_empty(like, {blocks * plan.workspace}, ScalarType::Byte);
    const Tensor memory = torch::stable::new_empty(like, {group_count * groups.bytes}, ScalarType::Byte);
    const Tensor next = zeros(sizeof(int)), meetings = zeros(group_count * int64_t(sizeof(FitMeeting)));
    call.workspace = out_pointer<unsigned char>(workspace);
    call.next = reinterpret_cast<int*>(out_pointer<unsigned char>(next));
    call.group = groups.blocks;
    call.group_bytes = groups.bytes;
    call.groups = out_pointer<unsigned char>(memory);
    call.meetings = reinterpret_cast<FitMeeting*>(out_pointer<unsigned char>(meetings));
    const dim3 grid(static_cast<unsigned>(blocks)), block(static_cast<unsigned>(plan.threads));
    if (groups.blocks > 1)
        launch_together(shared, grid, block, bytes, stream, call);
    else
        launch(groups.bytes > 0 ? shared : alone, grid, block, bytes, stream, call);
    check_cuda(cudaGetLastError(), "bank_fit");
}

}  // namespace mclnf

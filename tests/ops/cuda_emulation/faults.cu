// Kernels that are wrong on purpose, and one that is not: whether the emulation tells.
#include "cuda/launch.h"

namespace mclnf {
namespace {

constexpr int kBlock = 96;

// The sum of each block's values, by shuffles and shared memory. `fault` 1: without the barrier; 2: a barrier
// that half of the block reaches; 3: a shuffle that a lane does not reach; 4: a lane ends too early; 5: reads
// behind the end of the array; 6: reads shared memory that nobody wrote; 7: reads a lane outside of its mask;
// 8: calls for a mask that leaves the caller out; 9: reads behind the end of shared memory.
__global__ void __launch_bounds__(kBlock) sum_kernel(const float* in, float* out, int64_t count, int fault) {
    __shared__ float parts[kBlock / 32 + 1];
    const int t = static_cast<int>(threadIdx.x), lane = t % 32;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + t;
    if (fault == 4 && t == 37) return;
    float value = i < count || fault == 5 ? in[i] : 0.0f;
    for (int by = 16; by > 0; by /= 2) {
        if (fault == 3 && by == 4 && t == 5) continue;
        const float other = __shfl_down_sync(0xffffffffu, value, by);
        value += lane + by < 32 ? other : 0.0f;
    }
    if (fault == 7 && lane < 16) value += __shfl_sync(0xffffu, value, 20);
    if (fault == 8 && lane == 3) value += __shfl_sync(0xfff0u, value, 5);
    if (lane == 0) parts[t / 32] = value;
    if (fault == 2) {
        if (t < kBlock / 2) __syncthreads();
    } else if (fault != 1) {
        __syncthreads();
    }
    if (t == 0) {
        float sum = 0;
        for (int w = 0; w < kBlock / 32 + (fault == 6 ? 1 : (fault == 9 ? 2 : 0)); ++w) sum += parts[w];
        out[blockIdx.x] = sum;
    }
}

Tensor sum_blocks(const Tensor& in, int64_t fault) {
    const int64_t blocks = (in.numel() + kBlock - 1) / kBlock;
    Tensor out = torch::stable::new_empty(in, {blocks});
    launch(sum_kernel, static_cast<unsigned>(blocks), kBlock, 0, current_stream(in), pointer<float>(in),
           out_pointer<float>(out), in.numel(), static_cast<int>(fault));
    check_cuda(cudaGetLastError(), "sum_blocks");
    return out;
}

constexpr int kRing = 64;  // threads of a block

// All threads of all blocks wait for each other.
__device__ void meet(unsigned long long* arrivals) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        const unsigned long long before = atomicAdd(arrivals, 1ull);
        wait_for(arrivals, (before / gridDim.x + 1) * gridDim.x);
        __threadfence();
    }
    __syncthreads();
}

// Numbers go round from block to block, thread by thread, `rounds` times: in the end each block has those of
// the block that is so many before it. `fault` 1: without the wait between reading and writing; 2: without
// that between writing and reading; 3: the last block leaves too early.
__global__ void __launch_bounds__(kRing)
    ring_kernel(float* numbers, unsigned long long* arrivals, int rounds, int fault) {
    const int t = static_cast<int>(threadIdx.x), blocks = static_cast<int>(gridDim.x);
    const int b = static_cast<int>(blockIdx.x), before = (b + blocks - 1) % blocks;
    float number = static_cast<float>(b * kRing + t);
    for (int k = 0; k < rounds; ++k) {
        if (fault == 3 && k == 1 && b == blocks - 1) return;
        numbers[b * kRing + t] = number;
        if (fault != 2) meet(arrivals);
        number = numbers[before * kRing + t];
        if (fault != 1) meet(arrivals);
    }
    numbers[b * kRing + t] = number;
}

Tensor ring_of_blocks(const Tensor& like, int64_t blocks, int64_t rounds, int64_t fault, bool together) {
    Tensor numbers = torch::stable::new_empty(like, {blocks * kRing});
    Tensor arrivals = torch::stable::new_zeros(like, {8}, ScalarType::Byte);
    float* to = out_pointer<float>(numbers);
    auto* count = reinterpret_cast<unsigned long long*>(out_pointer<unsigned char>(arrivals));
    int turns = static_cast<int>(rounds), what = static_cast<int>(fault);
    const unsigned grid = static_cast<unsigned>(blocks);
    if (together)
        launch_together(ring_kernel, grid, kRing, 60 << 10, current_stream(like), to, count, turns, what);
    else
        launch(ring_kernel, grid, kRing, 60 << 10, current_stream(like), to, count, turns, what);
    check_cuda(cudaGetLastError(), "ring_of_blocks");
    return numbers;
}

// The order in which blocks and threads came: their numbers, as they took places.
__global__ void order_kernel(int64_t* places, int* next) {
    places[atomicAdd(next, 1)] = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

Tensor order_of_threads(const Tensor& in, int64_t blocks, int64_t threads) {
    Tensor places = torch::stable::new_empty(in, {blocks * threads}, ScalarType::Long);
    Tensor next = torch::stable::new_zeros(in, {1}, ScalarType::Int);
    launch(order_kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, current_stream(in),
           out_pointer<int64_t>(places), out_pointer<int>(next));
    check_cuda(cudaGetLastError(), "order_of_threads");
    return places;
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_FRAGMENT(mclnf_fast_emulated, m) {
    m.def("sum_blocks(Tensor x, int fault) -> Tensor");
    m.def("ring_of_blocks(Tensor like, int blocks, int rounds, int fault, bool together) -> Tensor");
    m.def("order_of_threads(Tensor like, int blocks, int threads) -> Tensor");
}
MCLNF_CUDA_OPS(m) {
    m.impl("sum_blocks", TORCH_BOX(&mclnf::sum_blocks));
    m.impl("ring_of_blocks", TORCH_BOX(&mclnf::ring_of_blocks));
    m.impl("order_of_threads", TORCH_BOX(&mclnf::order_of_threads));
}

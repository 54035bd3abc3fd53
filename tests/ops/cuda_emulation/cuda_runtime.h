// Stands in for CUDA's header where csrc/cuda/*.cu is compiled by an ordinary C++ compiler: a block's threads
// run on the CPU, one at a time, and switch where they wait for each other. For tests alone.
//
// A barrier that not all threads of a block reach, or a shuffle that a lane of its mask does not reach (one
// that has ended counts as missing), ends the launch with an error. Shared memory is full of NaN when a block
// begins, and so is what a shuffle reads from a lane outside of its mask. Threads and blocks run in the order
// that MCLNF_EMULATION_ORDER gives: forward (the first thread that can run goes on), reverse, or random:SEED.
// Blocks of a launch together run at the same time, their threads in that order over all blocks; they must
// take their shared memory from the launch, since what a kernel declares is there once. Threads that wait for
// a number in memory, with nobody left to write it, end the launch with an error too.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#ifdef __SANITIZE_ADDRESS__  // which guards what lies in no section of its own
#define __shared__ static
#else
#define __shared__ static __attribute__((section("emulated_shared")))
#endif

#include "vector_types.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulation {

// Runs `thread` for every thread of every block.
void run_grid(dim3 blocks, dim3 threads, size_t shared_bytes, const std::function<void()>& thread);
// All blocks at the same time; an error if the device does not hold them.
void run_together(dim3 blocks, dim3 threads, size_t shared_bytes, const std::function<void()>& thread);
unsigned char* dynamic_shared();

// Waits for the block; the sum of all threads' values.
int block_wait(const char* what, int value);
// Waits until other threads have made `ready` true.
void wait_until(const char* what, std::function<bool()> ready);
// Waits for the lanes of `mask`; everyone's values, 32 of them, go to `all`.
void warp_wait(const char* what, unsigned mask, const void* value, void* all, size_t bytes);
unsigned lane();

}  // namespace emulation

#include "intrinsics.h"
#include "mma.h"
#include "runtime.h"

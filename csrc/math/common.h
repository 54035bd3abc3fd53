// The host-device marker and the inlining into clones, for every function of this folder.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define MCLNF_HD __host__ __device__
#else
#define MCLNF_HD
#endif

// A CPU kernel is cloned for several instruction sets (csrc/cpu/rays.h); a function that it
// calls takes part in that only if it is inlined into the clone.
#if defined(__CUDACC__)
#define MCLNF_INLINE __forceinline__
#elif defined(__GNUC__)
#define MCLNF_INLINE inline __attribute__((always_inline))
#else
#define MCLNF_INLINE inline
#endif

// Before a loop of few turns over an array that should stay in registers: the GPU has no others to index.
#if defined(__CUDACC__)
#define MCLNF_UNROLL _Pragma("unroll")
#else
#define MCLNF_UNROLL
#endif

// Before a function of this folder that calls what a thread of the GPU alone can do: nvcc compiles it for the
// host as well, for which nobody calls it, and would warn of that.
#if defined(__CUDACC__)
#define MCLNF_TEAM_CALLS _Pragma("nv_exec_check_disable")
#else
#define MCLNF_TEAM_CALLS
#endif

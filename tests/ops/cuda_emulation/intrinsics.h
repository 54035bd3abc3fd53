// Barriers, shuffles, votes, atomics and the bits of arithmetic that the kernels call by CUDA's names.
#pragma once

inline void __syncthreads() { emulation::block_wait("__syncthreads", 0); }
inline int __syncthreads_count(int p) { return emulation::block_wait("__syncthreads_count", p != 0); }
inline int __syncthreads_or(int p) { return emulation::block_wait("__syncthreads_or", p != 0) != 0; }
inline int __syncthreads_and(int p) { return emulation::block_wait("__syncthreads_and", p == 0) == 0; }
inline void __threadfence() {}
inline void __threadfence_block() {}

constexpr unsigned kAllLanes = 0xffffffffu;

inline void __syncwarp(unsigned mask = kAllLanes) {
    char nothing = 0, all[32];
    emulation::warp_wait("__syncwarp", mask, &nothing, all, 1);
}

// The value of lane `from` of the caller's group of `width` lanes; its own where there is no such lane.
template <typename T>
T emulated_shuffle(const char* what, unsigned mask, T value, int from, int width) {
    T all[32];
    emulation::warp_wait(what, mask, &value, all, sizeof(T));
    const int lane = static_cast<int>(emulation::lane()), first = lane / width * width;
    return from < first || from >= first + width ? value : all[from];
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    const int lane = static_cast<int>(emulation::lane());
    return emulated_shuffle("__shfl_sync", mask, value, lane / width * width + (from & (width - 1)), width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    return emulated_shuffle("__shfl_up_sync", mask, value,
                            static_cast<int>(emulation::lane()) - static_cast<int>(by), width);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    return emulated_shuffle("__shfl_down_sync", mask, value,
                            static_cast<int>(emulation::lane()) + static_cast<int>(by), width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32) {
    return emulated_shuffle("__shfl_xor_sync", mask, value, static_cast<int>(emulation::lane()) ^ by, width);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    int all[32];
    unsigned found = 0;
    emulation::warp_wait("__ballot_sync", mask, &predicate, all, sizeof(int));
    for (unsigned l = 0; l < 32; ++l) found |= static_cast<unsigned>((mask >> l & 1) && all[l]) << l;
    return found;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
    T all[32];
    unsigned found = 0;
    emulation::warp_wait("__match_any_sync", mask, &value, all, sizeof(T));
    for (unsigned l = 0; l < 32; ++l)
        found |= static_cast<unsigned>((mask >> l & 1) && memcmp(&all[l], &value, sizeof(T)) == 0) << l;
    return found;
}

// Threads run one at a time and switch only where they wait: plain code is atomic. Each returns what was
// there.
template <typename T, typename F>
T emulated_atomic(T* at, const F& change) {
    const T old = *at;
    *at = change(old);
    return old;
}
template <typename T>
T atomicAdd(T* at, decltype(T{}) value) {
    return emulated_atomic(at, [&](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicMax(T* at, decltype(T{}) value) {
    return emulated_atomic(at, [&](T old) { return old > value ? old : value; });
}
template <typename T>
T atomicMin(T* at, decltype(T{}) value) {
    return emulated_atomic(at, [&](T old) { return old < value ? old : value; });
}
template <typename T>
T atomicOr(T* at, decltype(T{}) value) {
    return emulated_atomic(at, [&](T old) { return old | value; });
}
template <typename T>
T atomicExch(T* at, decltype(T{}) value) {
    return emulated_atomic(at, [&](T) { return value; });
}
template <typename T>
T atomicCAS(T* at, decltype(T{}) expected, decltype(T{}) value) {
    return emulated_atomic(at, [&](T old) { return old == expected ? value : old; });
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
template <typename T>
T __ldg(const T* at) {
    return *at;
}
template <typename T>
T __ldcs(const T* at) {
    return *at;
}
template <typename T>
void __stcs(T* at, T value) {
    *at = value;
}
template <typename To, typename From>
To emulated_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float x) { return emulated_bits<int>(x); }
inline float __int_as_float(int x) { return emulated_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulated_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulated_bits<double>(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// Called without a namespace in device code.
template <typename T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
    return a < b ? b : a;
}

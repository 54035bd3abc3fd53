// Shared by the per-ray CPU kernels: clones for the instruction sets, and equal shares for the threads.
#pragma once

#include <algorithm>
#include <vector>

#include "tensors.h"

// The loader picks the clone for the machine at hand. Contraction is off, so that every clone gives the same
// bits. The sanitizers do not support the early symbol resolution that this needs.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && \
    !defined(__SANITIZE_ADDRESS__)
#define MCLNF_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MCLNF_CLONES
#endif

namespace mclnf {

// The number of the lowest bit that is set; of a word with one.
inline int first_bit(uint64_t word) {
#if defined(__GNUC__)
    return __builtin_ctzll(word);
#else
    int bit = 0;
    while (!((word >> bit) & 1)) ++bit;
    return bit;
#endif
}

// Calls f(first ray, one past the last) on shares of about equal work; work(r) is the weight of ray r, about
// its number of samples. A ray is worked on by one thread from end to end, so that the shares change nothing
// in the results.
template <typename Work, typename F>
void parallel_rays(int64_t rays, const Work& work, const F& f) {
    const int64_t smallest = 16384;  // below this a second thread costs more than it brings
    const int64_t threads = torch::stable::get_num_threads();
    if (threads == 1) {
        if (rays > 0) f(0, rays);
        return;
    }
    int64_t total = 0;
    for (int64_t r = 0; r < rays; ++r) total += work(r);
    const int64_t shares = std::max<int64_t>(1, std::min(threads, total / smallest));
    std::vector<int64_t> cuts(static_cast<size_t>(shares) + 1, rays);
    cuts[0] = 0;
    int64_t sum = 0, next = 1;
    for (int64_t r = 0; r < rays && next < shares; ++r) {
        sum += work(r);
        while (next < shares && sum * shares >= total * next) cuts[next++] = r + 1;
    }
    torch::stable::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
        if (begin < end) f(cuts[begin], cuts[end]);
    });
}

}  // namespace mclnf

// How many runs of one module's work are shared: by one thread, or by all.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace mclnf {

// f(r) for r = 0 ... count - 1, on this thread or on all.
struct OnThisThread {
    template <class F>
    void operator()(int64_t count, const F& f) const {
        for (int64_t r = 0; r < count; ++r) f(r);
    }
};
struct OnAllThreads {
    template <class F>
    void operator()(int64_t count, const F& f) const {
        // One after the other to whoever is free: a foreign process may hold one of the cores.
        std::atomic<int64_t> next{0};
        torch::stable::parallel_for(0, std::min<int64_t>(torch::stable::get_num_threads(), count), 1,
                                    [&](int64_t, int64_t) {
                                        for (int64_t r = next++; r < count; r = next++) f(r);
                                    });
    }
};

}  // namespace mclnf

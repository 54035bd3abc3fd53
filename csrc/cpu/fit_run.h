// How the threads share the modules of a fit.
#pragma once

#include <algorithm>

#include "fit_module.h"
#include "fit_queue.h"
#include "threads.h"

namespace mclnf {

// Steps of a slice: few enough that the cores end together and that a core which a foreign process slows down
// holds up little, and enough that the way of a module's state to another core costs nothing beside them.
inline int64_t slice_of(int64_t steps, int64_t modules, int64_t threads) {
    constexpr int64_t kSlicesPerThread = 64, kLeast = 16;
    return std::max(kLeast, steps * modules / (threads * kSlicesPerThread));
}

template <class S>
void run_fit(const Fit<S>& fit) {
    const int64_t threads = torch::stable::get_num_threads();
    std::deque<int64_t> alone, shared;
    int64_t most = 0;
    for (int64_t m = 0; m < fit.modules(); ++m)
        if (fit.goal[m] > fit.first[m]) {
            alone.push_back(m);
            most = std::max(most, fit.goal[m] - fit.first[m]);
        }
    // Fewer modules than cores, each with work for several: all cores on one module after the other.
    if (static_cast<int64_t>(alone.size()) < threads) {
        std::deque<int64_t> small;
        for (const int64_t m : alone) (fit.runs_of(m) >= threads ? shared : small).push_back(m);
        alone = std::move(small);
    }
    if (!shared.empty()) {
        const OnAllThreads each;
        FitSteps<S, OnAllThreads> steps(fit, each);
        for (const int64_t m : shared) steps.run(m, most);
    }
    if (alone.empty()) return;
    // Below this a second thread costs more than it brings, most of all where another process holds its core.
    constexpr double kSmallest = 4e6;  // floating-point operations
    double work = 0;
    for (const int64_t m : alone)
        work +=
            6.0 * static_cast<double>(fit.net.parameters * fit.batch_of(m) * (fit.goal[m] - fit.first[m]));
    const int64_t useful = std::max<int64_t>(1, static_cast<int64_t>(work / kSmallest)),
                  workers = std::min({threads, static_cast<int64_t>(alone.size()), useful});
    const int64_t slice = slice_of(most, static_cast<int64_t>(alone.size()), workers);
    FitQueue queue(std::move(alone));
    const auto worker = [&](int64_t, int64_t) {
        const OnThisThread each;
        FitSteps<S, OnThisThread> steps(fit, each);
        for (int64_t m = queue.take(); m >= 0; m = queue.take())
            if (steps.run(m, slice)) queue.put_back(m);
    };
    workers == 1 ? worker(0, 1) : torch::stable::parallel_for(0, workers, 1, worker);
}

}  // namespace mclnf

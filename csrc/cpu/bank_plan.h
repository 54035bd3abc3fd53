// How a bank's work is cut into runs, and how the threads share them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "bank_parameters.h"

namespace mclnf {

// Points below which a run is not worth cutting further: packed weights and partial sums would cost more.
constexpr int64_t kMinPoints = 512;
constexpr int64_t kMinRays = 64;  // a ray has many points

// A run of items (points, or segments, or rays) of one module. `slot` < 0: the module's only run, which
// writes its sums in place; otherwise the row of the partial sums that it fills.
struct Run {
    int64_t module, begin, end, slot;

    int64_t size() const { return end - begin; }
};

// Every module's items cut into runs.
struct Plan {
    std::vector<Run> runs;
    int64_t slots = 0;

    Plan() = default;

    // For results of each item alone, whose bits no cut changes: large runs, and enough of them for all
    // threads.
    static Plan free(const std::vector<int64_t>& offsets) {
        const int64_t runs = 8 * static_cast<int64_t>(torch::stable::get_num_threads());
        return Plan(offsets, std::max(kMinPoints, offsets.back() / runs), false);
    }
    // For sums over items: enough runs that one huge module fills the cores, and no more of them than that
    // takes, since each of a module's runs has partial sums of its own. The cut depends on the problem alone,
    // never on the number of threads, and so do the sums' bits.
    static Plan fixed(const std::vector<int64_t>& offsets, int64_t min_items) {
        return Plan(offsets, std::max(min_items, offsets.back() / 64), true);
    }

  private:
    // Items of a run are a multiple of the widest tile's points, so that only the last tile of a module is
    // ragged.
    static constexpr int64_t kWholeTiles = 128;

    Plan(const std::vector<int64_t>& offsets, int64_t min_items, bool partial_sums) {
        for (size_t m = 0; m + 1 < offsets.size(); ++m) {
            const int64_t items = offsets[m + 1] - offsets[m];
            if (items == 0) continue;
            const int64_t count = (items + min_items - 1) / min_items;
            const int64_t size = ((items + count - 1) / count + kWholeTiles - 1) / kWholeTiles * kWholeTiles;
            const bool alone = size >= items || !partial_sums;
            for (int64_t begin = offsets[m]; begin < offsets[m + 1]; begin += size)
                runs.push_back({static_cast<int64_t>(m), begin, std::min(begin + size, offsets[m + 1]),
                                alone ? -1 : slots++});
        }
    }
};

// The parameters of a plan's runs (or tangents of them), one after the other, each with the weights of the
// run that comes next.
template <class S>
class RunParameters {
  public:
    RunParameters(const Plan& plan, const ParameterView<S>& parameters)
        : plan_(&plan), current_(parameters), next_(parameters) {}
    // then: the run that this thread takes after r; -1: none.
    Parameters<S> at(int64_t r, int64_t then) {
        const std::vector<Run>& runs = plan_->runs;
        Parameters<S> parameters = current_.at(runs[r].module).read();
        if (then >= 0 && runs[then].module != runs[r].module)
            parameters.next_weight = next_.at(runs[then].module).read().weight;
        return parameters;
    }

  private:
    const Plan* plan_;
    ParameterView<S> current_, next_;
};

// f(r, then) for every run r of a plan, on all threads, then being the one that the same thread takes next if
// that is known (or -1). Each thread takes the next few runs when it is done with the last, since threads are
// not equally fast: equal shares would end with the slowest one. Each works on a copy of f, whose captures
// are the thread's own from run to run.
template <class F>
void each_run(const Plan& plan, const F& f) {
    const int64_t runs = static_cast<int64_t>(plan.runs.size()),
                  threads = static_cast<int64_t>(torch::stable::get_num_threads());
    const int64_t few = std::max<int64_t>(1, runs / (128 * std::max<int64_t>(1, threads)));
    const bool many = runs >= 64 * threads;  // of few, the next is the fastest thread's
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, std::min(threads, runs), 1, [&](int64_t, int64_t) {
        F of_thread = f;
        int64_t after = -1;
        for (int64_t first = next.fetch_add(few); first < runs;
             first = after >= 0 ? after : next.fetch_add(few)) {
            if (many) after = next.fetch_add(few);
            const int64_t end = std::min(first + few, runs);
            for (int64_t r = first; r < end; ++r)
                of_thread(r, r + 1 < end ? r + 1 : after < runs ? after : -1);
        }
    });
}

}  // namespace mclnf

// The optimizer step of a bank on the CPU: one pass over memory; threads share the parameters, the arithmetic
// is csrc/math/bank_step.h.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <memory>
#include <type_traits>

#include "step_range.h"

namespace mclnf {
namespace {

// Neighboring modules that make the same step; `before` counts the modules of the runs before it.
template <typename S>
struct Run {
    int64_t first, count, before;
    StepFactors<S> factors;
};

// Counts the active modules' steps up and groups them: ten thousand modules in step are one range.
template <typename S>
std::vector<Run<S>> group(const ModuleValues& own, const StepOptions& o) {
    std::vector<Run<S>> runs;
    double last_step = -1, last_rate = -1, last_scale = -1;
    for (int64_t m = 0; m < o.modules; ++m) {
        if (own.active && !own.active[m]) continue;
        const double t = own.clock[m] += 1, rate = own.rates ? own.rates[m] : o.lr,
                     scale = own.scales ? own.scales[m] : 1;
        const bool same = t == last_step && rate == last_rate && scale == last_scale;
        if (same && runs.back().first + runs.back().count == m) {
            ++runs.back().count;
            continue;
        }
        const int64_t before = runs.empty() ? 0 : runs.back().before + runs.back().count;
        runs.push_back(
            {m, 1, before,
             same ? runs.back().factors : step_factors<S>(o.adam, t, rate, o.beta1, o.beta2, o.eps, o.lam)});
        runs.back().factors.unscale = static_cast<S>(1 / scale);
        set_decay(runs.back().factors, o.decoupled, rate, o.weight_decay);
        last_step = t, last_rate = rate, last_scale = scale;
    }
    return runs;
}

// Steps the values lo ... hi-1 of one tensor, counted over the active modules only; `size` values per module.
template <typename S>
void step_tensor(const std::vector<Run<S>>& runs, const Streams<S>& t, int half, int64_t size, int64_t lo,
                 int64_t hi) {
    auto run = std::upper_bound(runs.begin(), runs.end(), lo / size,
                                [](int64_t module, const Run<S>& r) { return module < r.before; }) -
               1;
    for (; lo < hi; ++run) {
        const int64_t skip = lo - run->before * size, n = std::min(hi - lo, run->count * size - skip);
        const Streams<S> values = t.from(run->first * size + skip);
        if constexpr (std::is_same_v<S, float>) {
            if (t.copy && half == kBf16) step_range_bf16(run->factors, values, n);
            if (t.copy && half == kFp16) step_range_fp16(run->factors, values, n);
        }
        if (!t.copy) step_range(run->factors, values, n);
        lo += n;
    }
}

template <typename S>
void step_all(const std::vector<Run<S>>& runs, const std::vector<Streams<S>>& streams, int half,
              const std::vector<int64_t>& sizes) {
    if (runs.empty()) return;
    const int64_t active = runs.back().before + runs.back().count;
    int64_t total = 0;
    for (const int64_t size : sizes) total += size * active;
    const int64_t smallest = 32768;  // below this a second thread costs more than it brings
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t shares = std::max<int64_t>(1, std::min(threads, total / smallest));
    // Whole cache lines per share: two threads that write one line would take it from each other.
    const int64_t share = ((total + shares - 1) / shares + 63) / 64 * 64;
    const auto work = [&](int64_t first, int64_t last) {
        const int64_t lo = first * share, hi = std::min(total, last * share);
        int64_t at = 0;
        for (size_t t = 0; t < sizes.size() && at < hi; ++t) {
            const int64_t n = sizes[t] * active;
            if (at + n > lo && n > 0)
                step_tensor(runs, streams[t], half, sizes[t], std::max<int64_t>(0, lo - at),
                            std::min(n, hi - at));
            at += n;
        }
    };
    if (shares == 1) return work(0, 1);
    torch::stable::parallel_for(0, shares, 1, work);
}

// Whether one of n gradients is not 0.
template <typename S>
bool some_gradient(const Streams<S>& t, int64_t n) {
    return t.half_g ? any_nonzero(t.half_g, n) : any_nonzero(t.g, n);
}

// Of each active module whether one of its gradients is not 0. The first one mostly is, and ends the search.
template <typename S>
std::unique_ptr<bool[]> with_gradients(const ModuleValues& own, int64_t modules,
                                       const std::vector<Streams<S>>& streams,
                                       const std::vector<int64_t>& sizes) {
    auto mask = std::make_unique<bool[]>(static_cast<size_t>(modules));
    int64_t size = 1;
    for (const int64_t s : sizes) size += s;
    const auto look = [&](int64_t first, int64_t last) {
        for (int64_t m = first; m < last; ++m)
            for (size_t t = 0; t < sizes.size() && !mask[m]; ++t)
                mask[m] =
                    (!own.active || own.active[m]) && some_gradient(streams[t].from(m * sizes[t]), sizes[t]);
    };
    torch::stable::parallel_for(0, modules, std::max<int64_t>(1, 131072 / size), look);
    return mask;
}

struct Cpu {
    struct Guard {
        explicit Guard(const Tensor&) {}
    };
    static constexpr const char* kPlace = "on the CPU";

    explicit Cpu(const Tensor&) {}

    bool has(const Tensor& t) const { return t.is_cpu(); }

    void check_values(const char* name, const double* values, int64_t count) const {
        for (int64_t i = 0; i < count; ++i)
            STD_TORCH_CHECK(usable(values[i]), "bank_step: ", name, " must be finite and at least 0, got ",
                            values[i]);
    }

    template <typename S>
    void step(const StepOptions& options, const ModuleValues& own, const std::vector<Streams<S>>& streams,
              const std::vector<int64_t>& sizes) const {
        ModuleValues stepped = own;
        std::unique_ptr<bool[]> mask;
        if (options.skip_zero) {
            mask = with_gradients(own, options.modules, streams, sizes);
            stepped.active = mask.get();
        }
        step_all(group<S>(stepped, options), streams, options.half, sizes);
    }
};

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("bank_step", TORCH_BOX(&mclnf::bank_step<mclnf::Cpu>));
}

// Sums over a plan's runs, such as gradients.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "bank_plan.h"

namespace mclnf {

// Sums shaped like the parameters. Each run writes into memory that its thread's `Output` gives and
// reports that it is `done`; then `finish` adds the partial sums of every module in the order of its runs and
// puts zeros for modules without items. Sums of bf16 are fp32 until all is added, and rounded once: rounded
// per run, they would lose bits with the number of runs.
template <class S>
class RunSums {
    using Sum = Value<S>;

  public:
    static constexpr bool kRounds = !std::is_same_v<S, Sum>;  // `of` gives memory that `done` reads

    // Memory for one thread's runs.
    class Output {
      public:
        explicit Output(const RunSums& sums)
            : net_(&sums.net_),
              total_(sums.total_, sums.net_),
              slots_(total_ ? ParameterView<Sum>(sums.partial_.get(), sums.net_) : ParameterView<Sum>()) {}
        Gradients<Sum> of(const Run& run, bool stream = false) {
            if (!total_) return {};
            if (run.slot >= 0) return slots_.at(run.slot).write();
            if constexpr (kRounds)
                return (wide_ = ParameterView<Sum>(wide_sums(), *net_)).write();
            else
                return total_.at(run.module).write(stream);
        }
        void done(const Run& run) {
            if constexpr (kRounds) {
                if (!total_ || run.slot >= 0) return;
                const Sum* from = wide_sums();
                total_.at(run.module).each(*net_, [&](auto* to, int64_t size) {
                    for (int64_t i = 0; i < size; ++i) put(from[i], to[i]);
                    from += size;
                });
            }
        }

      private:
        // The calling thread's fp32 sums of the run that it works on.
        Sum* wide_sums() const {
            static thread_local std::vector<Sum> memory;
            if (static_cast<int64_t>(memory.size()) < net_->parameters) memory.resize(net_->parameters);
            return memory.data();
        }

        const Net* net_;
        ParameterView<S> total_;
        ParameterView<Sum> slots_, wide_;
    };

    RunSums(const Net& net, int64_t modules, const Plan& plan, ParameterTensors<S>& total)
        : net_(net), modules_(modules), plan_(plan), total_(total) {
        if (total) partial_.reset(new Sum[plan.slots * net.parameters]);
    }
    // scale: a factor per module, or empty.
    void finish(const std::vector<S>& scale = {}) {
        if (!total_) return;
        const std::vector<size_t> first = first_runs();
        torch::stable::parallel_for(0, modules_, 1, [&](int64_t begin, int64_t end) {
            for (int64_t m = begin; m < end; ++m) {
                const int64_t count = static_cast<int64_t>(first[m + 1] - first[m]);
                // Nothing to do for a module that was written in place.
                if (count != 1 || !scale.empty()) finish_module(m, first[m], count, scale);
            }
        });
    }

  private:
    static void put(Sum from, Sum& to) { to = from; }
    static void put(Sum from, Bf16& to) { to = narrow(from); }

    // The first run of each module, and of one past the last.
    std::vector<size_t> first_runs() const {
        std::vector<size_t> first(modules_ + 1, plan_.runs.size());
        for (size_t r = plan_.runs.size(); r-- > 0;) first[plan_.runs[r].module] = r;
        for (int64_t m = modules_; m-- > 0;) first[m] = std::min(first[m], first[m + 1]);
        return first;
    }

    void finish_module(int64_t m, size_t first, int64_t count, const std::vector<S>& scale) const {
        const S factor = scale.empty() ? S(1) : scale[m];
        Sum* from = count > 1 ? partial_.get() + plan_.runs[first].slot * net_.parameters : nullptr;
        ParameterView<S>(total_, net_, m).each(net_, [&](auto* to, int64_t size) {
            if (count == 0) std::fill(to, to + size, std::remove_pointer_t<decltype(to)>(0));
            if (count > 1) add_partial(to, from, size, count);
            if (count > 0 && !scale.empty())
                for (int64_t i = 0; i < size; ++i) to[i] *= factor;
            from += count > 1 ? size : 0;
        });
    }

    // to = the sum of `count` >= 2 rows of partial sums, in their order.
    template <class T>
    void add_partial(T* to, Sum* from, int64_t size, int64_t count) const {
        const int64_t row = net_.parameters;
        if constexpr (kRounds) {
            for (int64_t c = 1; c < count; ++c)
                for (int64_t i = 0; i < size; ++i) from[i] += from[i + c * row];
            for (int64_t i = 0; i < size; ++i) put(from[i], to[i]);
        } else {
            for (int64_t i = 0; i < size; ++i) to[i] = from[i] + from[i + row];
            for (int64_t c = 2; c < count; ++c)
                for (int64_t i = 0; i < size; ++i) to[i] += from[i + c * row];
        }
    }

    const Net& net_;
    int64_t modules_;
    const Plan& plan_;
    ParameterTensors<S>& total_;
    std::unique_ptr<Sum[]> partial_;
};

// loss [M] = the sum of each module's errors, one per run, in their order and in double.
template <class S>
void add_errors(const Plan& plan, const std::vector<double>& errors, int64_t modules, S* loss) {
    std::vector<double> total(modules, 0.0);
    for (size_t r = 0; r < errors.size(); ++r) total[plan.runs[r].module] += errors[r];
    for (int64_t m = 0; m < modules; ++m) loss[m] = static_cast<S>(total[m]);
}

}  // namespace mclnf

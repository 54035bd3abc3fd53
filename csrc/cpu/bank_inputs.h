// What the bank's drivers share: tensors checked and turned into pointers, and
// the division of the work.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <tuple>
#include <type_traits>
#include <vector>

#include "bank_table.h"
#include "fresh.h"

namespace mclnf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

inline void check_shape(const char* name, const Tensor& t, std::initializer_list<int64_t> shape) {
    bool same = t.dim() == static_cast<int64_t>(shape.size());
    int64_t d = 0;
    for (const int64_t size : shape) same = same && t.size(d++) == size;
    STD_TORCH_CHECK(same, "mclnf_fast: ", name, " has a wrong shape");
}

// A contiguous tensor of this dtype, or an error that names it.
inline Tensor plain(const char* name, const Tensor& t, ScalarType dtype) {
    STD_TORCH_CHECK(t.is_cpu(), "mclnf_fast: ", name, " must be on the CPU like x");
    STD_TORCH_CHECK(t.scalar_type() == dtype, "mclnf_fast: ", name, " has a dtype other than x");
    return torch::stable::contiguous(t);
}

// Tensors shaped like the parameters, [M, in, out] and [M, out] a layer, and
// the pointers to one module's share.
template <class S>
struct Stack {
    Tensors weight, bias;

    Stack() = default;
    Stack(const char* name, const Net& net, int64_t modules, const Tensors& w, const Tensors& b,
          ScalarType dtype) {
        STD_TORCH_CHECK(w.size() == net.layers.size() && b.size() == net.layers.size(), "mclnf_fast: ", name,
                        " must hold one tensor a layer");
        for (size_t l = 0; l < net.layers.size(); ++l) {
            weight.push_back(plain(name, w[l], dtype));
            bias.push_back(plain(name, b[l], dtype));
            check_shape(name, weight[l], {modules, net.layers[l].in, net.layers[l].out});
            check_shape(name, bias[l], {modules, net.layers[l].out});
        }
    }
    static Stack empty(const Net& net, int64_t modules, const Tensor& like) {
        Stack stack;
        for (const Layer& layer : net.layers) {
            stack.weight.push_back(fresh(like, {modules, layer.in, layer.out}));
            stack.bias.push_back(fresh(like, {modules, layer.out}));
        }
        return stack;
    }
    explicit operator bool() const { return !weight.empty(); }
};

// Pointers to one module's share of a stack, moved from module to module: asking a tensor for its memory, and
// memory for the pointers, takes long beside the few points that a module may have.
template <class S>
class View {
  public:
    View() = default;
    explicit View(const Stack<S>& stack, const Net& net, int64_t module = 0) {
        for (size_t l = 0; l < stack.weight.size(); ++l) {
            const Layer& layer = net.layers[l];
            parts_.push_back({static_cast<S*>(stack.weight[l].mutable_data_ptr()),
                              static_cast<S*>(stack.bias[l].mutable_data_ptr()),
                              static_cast<int64_t>(layer.in) * layer.out, layer.out});
        }
        at(module);
    }
    // Buffers of net.parameters values, layer after layer, one behind the other.
    View(S* flat, const Net& net) {
        for (const Layer& layer : net.layers) {
            S* bias = flat + static_cast<int64_t>(layer.in) * layer.out;
            parts_.push_back({flat, bias, net.parameters, net.parameters});
            flat = bias + layer.out;
        }
        at(0);
    }
    View& at(int64_t module) {
        weight_.resize(parts_.size());
        bias_.resize(parts_.size());
        for (size_t l = 0; l < parts_.size(); ++l) {
            weight_[l] = parts_[l].weight + module * parts_[l].weights;
            bias_[l] = parts_[l].bias + module * parts_[l].biases;
        }
        return *this;
    }
    explicit operator bool() const { return !parts_.empty(); }
    Slices<S> read() const { return weight_.empty() ? Slices<S>{} : Slices<S>{weight_.data(), bias_.data()}; }
    Sums<S> write(bool stream = false) {
        return weight_.empty() ? Sums<S>{} : Sums<S>{weight_.data(), bias_.data(), stream};
    }
    // f(values, count) on every tensor's share.
    template <class F>
    void each(const Net& net, const F& f) const {
        for (size_t l = 0; l < weight_.size(); ++l) {
            f(weight_[l], static_cast<int64_t>(net.layers[l].in) * net.layers[l].out);
            f(bias_[l], static_cast<int64_t>(net.layers[l].out));
        }
    }

  private:
    struct Part {
        S *weight, *bias;
        int64_t weights, biases;  // from one module to the next
    };
    std::vector<Part> parts_;
    std::vector<S*> weight_, bias_;
};

// Points below which a run is not worth cutting further.
constexpr int64_t kLeastPoints = 512;

// A run of items (points, or segments) of one module. `slot` < 0: the module's
// only run, which writes its sums in place; otherwise the row of the partial
// sums that it fills.
struct Run {
    int64_t module, begin, end, slot;
};

// Every module's items cut into runs.
struct Plan {
    std::vector<Run> runs;
    int64_t slots = 0;

    // For results of each item alone, which no cut changes: large runs, and
    // enough of them for all threads.
    static Plan free(const std::vector<int64_t>& offsets) {
        const int64_t parts = 8 * static_cast<int64_t>(torch::stable::get_num_threads());
        const int64_t least = std::max<int64_t>(512, offsets.back() / parts);
        return Plan(offsets, least, false);
    }
    // For sums over items: enough runs that one huge module fills the cores, and no more of them than that
    // takes, since each of a module's runs has partial sums of its own. The cut depends on the problem alone,
    // never on the number of threads, and so do the sums' bits.
    static Plan fixed(const std::vector<int64_t>& offsets, int64_t least) {
        return Plan(offsets, std::max(least, offsets.back() / 64), true);
    }

  private:
    Plan(const std::vector<int64_t>& offsets, int64_t least, bool partial_sums) {
        for (size_t m = 0; m + 1 < offsets.size(); ++m) {
            const int64_t items = offsets[m + 1] - offsets[m];
            if (items == 0) continue;
            const int64_t count = (items + least - 1) / least;
            // Whole tiles a run, so that only the last one is ragged.
            const int64_t size = ((items + count - 1) / count + 127) / 128 * 128;
            const bool alone = size >= items || !partial_sums;
            for (int64_t at = offsets[m]; at < offsets[m + 1]; at += size)
                runs.push_back(
                    {static_cast<int64_t>(m), at, std::min(at + size, offsets[m + 1]), alone ? -1 : slots++});
        }
    }
};

// The parameters of a plan's runs (or tangents of them), one after the other, each with those of the run that
// comes next.
template <class S>
class Walk {
  public:
    Walk(const Plan& plan, const View<S>& parameters) : plan_(&plan), now_(parameters), next_(parameters) {}
    // then: the run that this thread takes after r; -1: none.
    Slices<S> at(int64_t r, int64_t then) {
        const std::vector<Run>& runs = plan_->runs;
        Slices<S> found = now_.at(runs[r].module).read();
        if (then >= 0 && runs[then].module != runs[r].module)
            found.next = next_.at(runs[then].module).read().weight;
        return found;
    }

  private:
    const Plan* plan_;
    View<S> now_, next_;
};

template <class S>
struct BankInputs {
    Net net;
    int64_t modules, points;
    Tensor x;
    std::vector<int64_t> offsets;
    Stack<S> parameters;

    BankInputs(const Tensor& x_in, const Tensor& offsets_in, const Tensors& w, const Tensors& b,
               const std::vector<int64_t>& ints, const std::vector<double>& floats)
        : net(ints, floats) {
        const ScalarType dtype = x_in.scalar_type();
        x = plain("x", x_in, dtype);
        STD_TORCH_CHECK(x.dim() == 2 && x.size(1) == net.in_dim, "mclnf_fast: x must be [N, in_dim]");
        points = x.size(0);
        offsets = read_offsets("offsets", offsets_in, points);
        modules = static_cast<int64_t>(offsets.size()) - 1;
        parameters = Stack<S>("weights and biases", net, modules, w, b, dtype);
    }

    static std::vector<int64_t> read_offsets(const char* name, const Tensor& t_in, int64_t total) {
        STD_TORCH_CHECK(t_in.is_cpu(), "mclnf_fast: ", name, " must be on the CPU like x");
        STD_TORCH_CHECK(t_in.scalar_type() == ScalarType::Long && t_in.dim() == 1 && t_in.numel() >= 1,
                        "mclnf_fast: ", name, " must be int64 [M + 1]");
        const Tensor t = torch::stable::contiguous(t_in);
        const int64_t* p = static_cast<const int64_t*>(t.const_data_ptr());
        std::vector<int64_t> values(p, p + t.numel());
        STD_TORCH_CHECK(values.front() == 0 && values.back() == total, "mclnf_fast: ", name,
                        " must go from 0 to ", total);
        for (size_t i = 1; i < values.size(); ++i)
            STD_TORCH_CHECK(values[i] >= values[i - 1], "mclnf_fast: ", name, " must not go down");
        return values;
    }
    Walk<S> walk(const Plan& plan) const { return Walk<S>(plan, View<S>(parameters, net)); }
    const S* points_at(int64_t at) const {
        return static_cast<const S*>(x.const_data_ptr()) + at * net.in_dim;
    }
};

// Bytes of gradients beyond which the first are gone from the caches before the last are there.
constexpr size_t kStreamFrom = size_t(64) << 20;

template <class S>
bool streams(const BankInputs<S>& in) {
    return !std::is_same_v<S, Bf16> &&
           static_cast<size_t>(in.modules * in.net.parameters) * sizeof(S) > kStreamFrom;
}

// f(r, then) for every run r of a plan, on all threads, then being the one that the same thread takes next
// where that is known (or -1): each takes the next few runs when it is done with the last, since threads are
// not equally fast. Each works on a copy of f, which may hold what a thread keeps between runs.
template <class F>
void each_run(const Plan& plan, const F& f) {
    const int64_t runs = static_cast<int64_t>(plan.runs.size()),
                  threads = static_cast<int64_t>(torch::stable::get_num_threads());
    const int64_t few = std::max<int64_t>(1, runs / (128 * std::max<int64_t>(1, threads)));
    const bool many = runs >= 64 * threads;  // of few, the next is the fastest thread's
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, std::min(threads, runs), 1, [&](int64_t, int64_t) {
        F own = f;
        int64_t after = -1;
        for (int64_t at = next.fetch_add(few); at < runs; at = after >= 0 ? after : next.fetch_add(few)) {
            if (many) after = next.fetch_add(few);
            const int64_t end = std::min(at + few, runs);
            for (int64_t r = at; r < end; ++r) own(r, r + 1 < end ? r + 1 : after < runs ? after : -1);
        }
    });
}

// Sums over a plan's runs, shaped like the parameters: each run writes what a thread's `Place` gives it and
// says that it is `done`, then `finish` adds the partial sums of every module in the order of its runs and
// puts zeros where a module has no items. Sums of bf16 are fp32 until all is added, and rounded once.
template <class S>
class RunSums {
    using Sum = typename Wide<S>::type;

  public:
    static constexpr bool kRounds = !std::is_same_v<S, Sum>;  // `of` gives memory that `done` reads

    // Where a thread's runs write.
    class Place {
      public:
        explicit Place(const RunSums& sums)
            : net_(&sums.net_),
              total_(sums.total_, sums.net_),
              slots_(total_ ? View<Sum>(sums.partial_.get(), sums.net_) : View<Sum>()) {}
        Sums<Sum> of(const Run& run, bool stream = false) {
            if (!total_) return {};
            if (run.slot >= 0) return slots_.at(run.slot).write();
            if constexpr (kRounds)
                return (own_ = View<Sum>(own(), *net_)).write();
            else
                return total_.at(run.module).write(stream);
        }
        void done(const Run& run) {
            if constexpr (kRounds) {
                if (!total_ || run.slot >= 0) return;
                const Sum* from = own();
                total_.at(run.module).each(*net_, [&](S* to, int64_t size) {
                    for (int64_t i = 0; i < size; ++i) to[i] = narrow(from[i]);
                    from += size;
                });
            }
        }

      private:
        // The calling thread's fp32 sums of the run that it works on.
        Sum* own() const {
            static thread_local std::vector<Sum> kept;
            if (static_cast<int64_t>(kept.size()) < net_->parameters) kept.resize(net_->parameters);
            return kept.data();
        }

        const Net* net_;
        View<S> total_;
        View<Sum> slots_, own_;
    };

    RunSums(const Net& net, int64_t modules, const Plan& plan, Stack<S>& total)
        : net_(net), modules_(modules), plan_(plan), total_(total) {
        if (total) partial_.reset(new Sum[plan.slots * net.parameters]);
    }
    // scale: a factor a module, or empty.
    void finish(const std::vector<S>& scale = {}) {
        if (!total_) return;
        std::vector<size_t> first(modules_ + 1, plan_.runs.size());  // the first run of each module
        for (size_t r = plan_.runs.size(); r-- > 0;) first[plan_.runs[r].module] = r;
        for (int64_t m = modules_; m-- > 0;) first[m] = std::min(first[m], first[m + 1]);
        // Work a module: nothing where it was written in place.
        torch::stable::parallel_for(0, modules_, 1, [&](int64_t begin, int64_t end) {
            for (int64_t m = begin; m < end; ++m) {
                const Run* run = plan_.runs.data() + first[m];
                const int64_t count = static_cast<int64_t>(first[m + 1] - first[m]);
                if (count == 1 && scale.empty()) continue;
                const S by = scale.empty() ? S(1) : scale[m];
                Sum* from = count > 1 ? partial_.get() + run->slot * net_.parameters : nullptr;
                View<S>(total_, net_, m).each(net_, [&](S* to, int64_t size) {
                    if (count == 0) std::fill(to, to + size, S(0));
                    if (count == 1)
                        for (int64_t i = 0; i < size; ++i) to[i] *= by;
                    if (count < 2) return;
                    if constexpr (kRounds) {
                        for (int64_t c = 1; c < count; ++c)
                            for (int64_t i = 0; i < size; ++i) from[i] += from[i + c * net_.parameters];
                        for (int64_t i = 0; i < size; ++i) to[i] = narrow(from[i]);
                    } else {
                        for (int64_t i = 0; i < size; ++i) to[i] = from[i] + from[i + net_.parameters];
                        for (int64_t c = 2; c < count; ++c)
                            for (int64_t i = 0; i < size; ++i) to[i] += from[i + c * net_.parameters];
                    }
                    if (!scale.empty())
                        for (int64_t i = 0; i < size; ++i) to[i] *= by;
                    from += size;
                });
            }
        });
    }

  private:
    const Net& net_;
    int64_t modules_;
    const Plan& plan_;
    Stack<S>& total_;
    std::unique_ptr<Sum[]> partial_;
};

// Calls f(float()) or f(double()) by the dtype of x.
template <class F>
auto by_dtype(const Tensor& x, const F& f) {
    if (x.scalar_type() == ScalarType::Double) return f(double());
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float,
                    "mclnf_fast: the CPU kernels take float32 and float64");
    return f(float());
}

template <class S>
const S* data(const Tensor& t) {
    return static_cast<const S*>(t.const_data_ptr());
}
template <class S>
S* mutable_data(const Tensor& t) {
    return static_cast<S*>(t.mutable_data_ptr());
}

}  // namespace mclnf

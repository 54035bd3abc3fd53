// Many steps of many modules in one call on the CPU. A core takes a module for a slice of its steps:
// parameters, moments and gradients of a small field stay in the core's cache, and no thread waits for
// another between steps.
#include <torch/csrc/stable/library.h>

#include "bank_step_tensors.h"
#include "fit_module.h"
#include "fit_queue.h"

namespace mclnf {
namespace {

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
        torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) f(r);
        });
    }
};

// Steps of a slice: few enough that the cores end together and that a core which a foreign process slows down
// holds up little, and enough that the way of a module's state to another core costs nothing beside them.
int64_t slice_of(int64_t steps, int64_t modules, int64_t threads) {
    constexpr int64_t kSlicesPerThread = 64, kLeast = 16;
    return std::max(kLeast, steps * modules / (threads * kSlicesPerThread));
}

template <class S>
void run(const Fit<S>& fit) {
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

// A list of int64 or float64 numbers, contiguous on the CPU.
Tensor numbers(const char* name, const Tensor& t, int64_t count, ScalarType dtype) {
    STD_TORCH_CHECK(
        t.is_cpu() && t.scalar_type() == dtype && t.dim() == 1 && (count < 0 || t.size(0) == count),
        "bank_fit: ", name, " has a wrong dtype, place or shape");
    return contiguous_of(name, t);
}
std::vector<int64_t> listed(const Tensor& t) {
    const int64_t* p = pointer<int64_t>(t);
    return std::vector<int64_t>(p, p + t.numel());
}

// The tensors of a bank as lists that are changed in place: layer after layer, the weights [M, in, out], then
// the biases [M, out].
struct BankValues {
    std::vector<Values> tensors;

    BankValues(const char* name, const Net& net, int64_t modules, ScalarType dtype, const Tensors& list) {
        if (list.empty()) return;
        STD_TORCH_CHECK(list.size() == 2 * net.layers.size(), "bank_fit: ", name,
                        " must hold two tensors a layer");
        for (size_t t = 0; t < list.size(); ++t) {
            const Layer& layer = net.layers[t / 2];
            STD_TORCH_CHECK(list[t].is_cpu() && list[t].scalar_type() == dtype, "bank_fit: ", name,
                            " must be on the CPU with the dtype of x");
            if (t % 2 == 0)
                check_shape(name, list[t], {modules, layer.in, layer.out});
            else
                check_shape(name, list[t], {modules, layer.out});
            check_memory(name, list[t]);
            check_written(name, list[t]);
            tensors.emplace_back(Tensors{list[t]});
        }
    }
    template <class S>
    S* at(size_t t) const {
        return tensors.empty() ? nullptr : tensors[t].write<S>(0);
    }
    void put_back() {
        for (Values& t : tensors) t.put_back();
    }
};

// Refuses what would make a step read or divide beyond its arguments.
template <class S>
void check_calls(const Fit<S>& fit, const OptTensor& given, int64_t rates) {
    const FitOptions& o = fit.options;
    STD_TORCH_CHECK(o.rule >= kDrawUniform && o.rule <= kDrawGiven, "bank_fit: unknown rule");
    STD_TORCH_CHECK(o.rule == kDrawWhole || (o.batch >= 1 && o.batch <= int64_t(1) << 31),
                    "bank_fit: batch out of range");
    STD_TORCH_CHECK(o.task >= 0 && o.task <= kMaxDrawTask, "bank_fit: task out of range");
    STD_TORCH_CHECK(o.sgd_steps >= 0 && o.check_every >= 1,
                    "bank_fit: sgd_steps or check_every out of range");
    int64_t most = 0;
    for (int64_t m = 0; m < fit.modules(); ++m) {
        if (fit.goal[m] <= fit.first[m]) continue;
        most = std::max(most, fit.goal[m] - fit.first[m]);
        STD_TORCH_CHECK(fit.first[m] >= 0 && fit.goal[m] <= rates,
                        "bank_fit: rates must reach to each module's goal");
        STD_TORCH_CHECK(fit.samples[m].n >= 1 && fit.samples[m].n <= kMaxDrawNumber, "bank_fit: module ", m,
                        " must have samples");
        STD_TORCH_CHECK(fit.module_numbers[m] >= 0 && fit.module_numbers[m] <= kMaxDrawNumber &&
                            fit.goal[m] <= kMaxDrawNumber,
                        "bank_fit: a module's number or step is out of range");
    }
    if (o.rule != kDrawGiven) return;
    STD_TORCH_CHECK(given && given->is_cpu() && given->scalar_type() == ScalarType::Long &&
                        given->dim() == 3 && given->size(0) >= most && given->size(1) == fit.modules() &&
                        given->size(2) == o.batch,
                    "bank_fit: ids must be int64 [K, M, batch]");
    const int64_t* id = pointer<int64_t>(*given);
    for (int64_t k = 0; k < given->size(0); ++k)
        for (int64_t m = 0; m < fit.modules(); ++m)
            for (int64_t j = 0; j < o.batch; ++j, ++id)
                STD_TORCH_CHECK(fit.goal[m] <= fit.first[m] || (*id >= 0 && *id < fit.samples[m].n),
                                "bank_fit: ids[", k, ", ", m, ", ", j, "] is no sample of its module");
}

using FitResults = std::tuple<Tensor, Tensors, Tensor, Tensor>;

FitResults bank_fit(Tensor x, OptTensor offsets, Tensor target, OptTensor weight, Tensors params,
                    Tensors exp_avg, Tensors exp_avg_sq, Tensor steps, Tensor goal, Tensor rates,
                    int64_t sgd_steps, bool adam, double beta1, double beta2, double eps, double lam,
                    Tensors fisher, Tensors anchor, int64_t rule, int64_t batch, OptTensor ids,
                    OptTensor ids_weight, int64_t seed, int64_t task, Tensor module_numbers, Tensor log_at,
                    Tensor snapshot_at, OptTensor stop_loss, int64_t check_every,
                    std::vector<int64_t> net_ints, std::vector<double> net_floats) {
    const Net net(net_ints, net_floats);
    const ScalarType dtype = x.scalar_type();
    const int64_t modules = steps.numel();
    return by_dtype(x, [&](auto zero) -> FitResults {
        using S = decltype(zero);
        x = plain("x", x, dtype);
        target = plain("target", target, dtype);
        if (weight) weight = plain("weight", *weight, dtype);
        STD_TORCH_CHECK(x.dim() == 2 && x.size(1) == net.in_dim, "bank_fit: x must be [N, in_dim]");
        const int64_t points = x.size(0);
        // Without offsets all modules share the coordinates.
        std::vector<int64_t> begins;
        if (offsets) {
            begins = read_offsets("offsets", *offsets, points);
            STD_TORCH_CHECK(static_cast<int64_t>(begins.size()) == modules + 1,
                            "bank_fit: offsets must be [M + 1]");
        }
        const int64_t rows = offsets ? points : modules * points;
        STD_TORCH_CHECK(target.numel() == rows * net.out_dim && (!weight || weight->numel() == rows),
                        "bank_fit: target and weight must have a row per sample");

        BankValues p("params", net, modules, dtype, params), m("exp_avg", net, modules, dtype, exp_avg),
            v("exp_avg_sq", net, modules, dtype, exp_avg_sq), f("fisher", net, modules, dtype, fisher),
            a("anchor", net, modules, dtype, anchor);
        STD_TORCH_CHECK(p.tensors.size() == 2 * net.layers.size(),
                        "bank_fit: params must hold two tensors a layer");
        STD_TORCH_CHECK(!adam || (!m.tensors.empty() && !v.tensors.empty()),
                        "bank_fit: Adam needs its moments");
        STD_TORCH_CHECK(lam == 0 || (!f.tensors.empty() && !a.tensors.empty()),
                        "bank_fit: a trust region needs fisher and anchor");

        check_written("steps", steps);
        Values clock({numbers("steps", steps, modules, ScalarType::Long)});
        const Tensor goals = numbers("goal", goal, modules, ScalarType::Long),
                     keys = numbers("module_numbers", module_numbers, modules, ScalarType::Long),
                     logs = numbers("log_at", log_at, -1, ScalarType::Long),
                     shots = numbers("snapshot_at", snapshot_at, -1, ScalarType::Long),
                     rate = numbers("rates", rates, -1, ScalarType::Double);
        const OptTensor stops = stop_loss
                                    ? OptTensor(numbers("stop_loss", *stop_loss, modules, ScalarType::Double))
                                    : OptTensor();
        const OptTensor given = contiguous_of("ids", ids);
        const OptTensor given_weight =
            ids_weight ? OptTensor(plain("ids_weight", *ids_weight, dtype)) : OptTensor();
        STD_TORCH_CHECK(!given_weight || (given && given_weight->numel() == given->numel()),
                        "bank_fit: ids_weight must be like ids");

        Tensor losses = torch::stable::new_empty(x, {logs.numel(), modules});
        Tensor ends = torch::stable::new_empty(goals, {modules}, ScalarType::Long);
        Tensor checked = torch::stable::new_empty(rate, {modules}, ScalarType::Double);
        constexpr S kNaN = std::numeric_limits<S>::quiet_NaN();
        std::fill_n(out_pointer<S>(losses), losses.numel(), kNaN);
        std::fill_n(out_pointer<double>(checked), modules, std::numeric_limits<double>::quiet_NaN());

        Fit<S> fit{net,
                   {static_cast<DrawRule>(rule), batch, seed, task, sgd_steps, check_every, adam, beta1,
                    beta2, eps, lam, pointer<double>(rate)},
                   {},
                   {},
                   pointer<int64_t>(given),
                   pointer<S>(given_weight),
                   pointer<int64_t>(keys),
                   clock.write<int64_t>(0),
                   {},
                   listed(goals),
                   out_pointer<int64_t>(ends),
                   listed(logs),
                   listed(shots),
                   out_pointer<S>(losses),
                   {},
                   pointer<double>(stops),
                   out_pointer<double>(checked)};
        fit.first.assign(fit.steps, fit.steps + modules);
        for (size_t t = 0; t < p.tensors.size(); ++t) {
            const Layer& layer = net.layers[t / 2];
            const int64_t size = t % 2 == 0 ? layer.weights() : layer.out;
            fit.tensors.push_back({p.at<S>(t), adam ? m.at<S>(t) : nullptr, adam ? v.at<S>(t) : nullptr,
                                   lam != 0 ? f.at<S>(t) : nullptr, lam != 0 ? a.at<S>(t) : nullptr, size});
        }
        for (int64_t i = 0; i < modules; ++i) {
            const int64_t row = offsets ? begins[i] : i * points, n = offsets ? begins[i + 1] - row : points;
            fit.samples.push_back({data<S>(x) + (offsets ? row : 0) * net.in_dim,
                                   data<S>(target) + row * net.out_dim,
                                   weight ? data<S>(*weight) + row : nullptr, n});
            fit.ends[i] = fit.goal[i] > fit.first[i] ? kFitSteps : kFitFrozen;
        }
        check_calls(fit, given, rate.numel());
        // NaN stays for a module that does not come so far.
        Tensors snapshots;
        for (size_t s = 0; s < fit.snapshot_at.size(); ++s) {
            fit.snapshots.emplace_back();
            for (const Tensor& like : params) {
                std::vector<int64_t> shape;
                for (int64_t d = 0; d < like.dim(); ++d) shape.push_back(like.size(d));
                snapshots.push_back(torch::stable::new_empty(x, shape));
                S* values = out_pointer<S>(snapshots.back());
                std::fill_n(values, like.numel(), kNaN);
                fit.snapshots.back().push_back(values);
            }
        }
        run(fit);
        clock.put_back();
        for (BankValues* written : {&p, &m, &v}) written->put_back();
        return {losses, snapshots, ends, checked};
    });
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) { m.impl("bank_fit", TORCH_BOX(&mclnf::bank_fit)); }

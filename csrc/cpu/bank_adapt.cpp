// The inner loop of meta-learning on the CPU: gradient steps of many modules in one call, and the derivative
// through them. Of the way there only the parameters before each step are stored; all else is computed again.
#include <torch/csrc/stable/library.h>

#include "adapt_module.h"
#include "fit_queue.h"
#include "threads.h"

namespace mclnf {
namespace {

// The arguments of both ops, checked. weights and biases [M, ...], or [1, ...] that all modules begin at.
template <class S>
struct AdaptInputs {
    Net net;
    int64_t modules, steps;
    Tensor x, target, rates;
    OptTensor weight, ids, ids_weight;
    ParameterTensors<S> initial;
    Adapt<S> call;

    AdaptInputs(const Tensors& w, const Tensors& b, const Tensor& rates_in, const Tensor& x_in,
                const OptTensor& offsets, const Tensor& target_in, const OptTensor& weight_in,
                const OptTensor& ids_in, const OptTensor& ids_weight_in, int64_t batch, int64_t frozen_layers,
                double clip, const std::vector<int64_t>& ints, const std::vector<double>& floats)
        : net(ints, floats), call{net, {}, 0, 0, nullptr, nullptr, nullptr, 0, S(0)} {
        const ScalarType dtype = x_in.scalar_type();
        x = plain("x", x_in, dtype);
        target = plain("target", target_in, dtype);
        rates = plain("rates", rates_in, dtype);
        if (weight_in) weight = plain("weight", *weight_in, dtype);
        if (ids_weight_in) ids_weight = plain("ids_weight", *ids_weight_in, dtype);
        STD_TORCH_CHECK(rates.dim() == 3 && rates.size(2) == static_cast<int64_t>(net.layers.size()),
                        "bank_adapt: rates must be [K, M, layers]");
        steps = rates.size(0), modules = rates.size(1);
        STD_TORCH_CHECK(!w.empty() && w[0].dim() == 3, "bank_adapt: weights must be [M, in, out] per layer");
        const int64_t given = w[0].size(0);
        STD_TORCH_CHECK(given == modules || given == 1, "bank_adapt: weights must be of all modules or of 1");
        initial = ParameterTensors<S>("weights and biases", net, given, w, b, dtype);
        STD_TORCH_CHECK(
            frozen_layers >= 0 && frozen_layers < static_cast<int64_t>(net.layers.size()) && clip > 0,
            "bank_adapt: frozen_layers or clip out of range");
        call.steps = steps;
        call.batch = batch;
        call.rates = data<S>(rates);
        call.frozen_layers = frozen_layers;
        call.clip = static_cast<S>(clip);
        read_samples(offsets);
        if (ids_in) read_ids(*ids_in);
        STD_TORCH_CHECK(ids_in || !ids_weight, "bank_adapt: ids_weight needs ids");
        STD_TORCH_CHECK(batch >= 0, "bank_adapt: batch must not be negative");
        for (int64_t m = 0; m < modules && !ids; ++m)
            STD_TORCH_CHECK(batch <= call.samples[m].n / std::max<int64_t>(1, steps), "bank_adapt: module ",
                            m, " must have the samples of all steps");
    }
    AdaptInputs(const AdaptInputs&) = delete;

    bool shared() const { return initial.weight[0].size(0) != modules; }
    ParameterView<S> initial_of(int64_t m) const { return ParameterView<S>(initial, net, shared() ? 0 : m); }
    // The parameters before step k >= 1 in starts [M, K - 1, parameters].
    ParameterView<S> start_of(const Tensor& starts, int64_t m, int64_t k) const {
        return ParameterView<S>(mutable_data<S>(starts) + (m * (steps - 1) + k - 1) * net.parameters, net);
    }

  private:
    void read_samples(const OptTensor& offsets) {
        STD_TORCH_CHECK(x.dim() == 2 && x.size(1) == net.in_dim, "bank_adapt: x must be [N, in_dim]");
        const int64_t points = x.size(0);
        // Without offsets all modules share the coordinates.
        std::vector<int64_t> begins;
        if (offsets) begins = read_offsets("offsets", *offsets, points);
        STD_TORCH_CHECK(!offsets || static_cast<int64_t>(begins.size()) == modules + 1,
                        "bank_adapt: offsets must be [M + 1]");
        const int64_t rows = offsets ? points : modules * points;
        STD_TORCH_CHECK(target.numel() == rows * net.out_dim && (!weight || weight->numel() == rows),
                        "bank_adapt: target and weight must have a row per sample");
        for (int64_t i = 0; i < modules; ++i) {
            const int64_t row = offsets ? begins[i] : i * points, n = offsets ? begins[i + 1] - row : points;
            call.samples.push_back({data<S>(x) + (offsets ? row : 0) * net.in_dim,
                                    data<S>(target) + row * net.out_dim,
                                    weight ? data<S>(*weight) + row : nullptr, n});
        }
    }
    void read_ids(const Tensor& ids_in) {
        STD_TORCH_CHECK(ids_in.is_cpu() && ids_in.scalar_type() == ScalarType::Long && ids_in.dim() == 3 &&
                            ids_in.size(0) == steps && ids_in.size(1) == modules &&
                            ids_in.size(2) == call.batch && call.batch > 0,
                        "bank_adapt: ids must be int64 [K, M, batch]");
        STD_TORCH_CHECK(!ids_weight || ids_weight->numel() == ids_in.numel(),
                        "bank_adapt: ids_weight must be like ids");
        ids = contiguous_of("ids", ids_in);
        call.ids = data<int64_t>(*ids);
        call.ids_weight = ids_weight ? data<S>(*ids_weight) : nullptr;
        const int64_t* id = call.ids;
        for (int64_t k = 0; k < steps; ++k)
            for (int64_t m = 0; m < modules; ++m)
                for (int64_t j = 0; j < call.batch; ++j, ++id)
                    STD_TORCH_CHECK(*id >= 0 && *id < call.samples[m].n, "bank_adapt: ids[", k, ", ", m, ", ",
                                    j, "] is no sample of its module");
    }
};

// f(steps, m, k) for the steps k of each module m one after the other, `backwards` from the last to the
// first, on all threads; `work`: operations per parameter and sample.
template <class S, class F>
void each_step(const Adapt<S>& call, bool backwards, double work, const F& f) {
    const int64_t threads = torch::stable::get_num_threads(), modules = call.modules(), steps = call.steps;
    // Fewer modules than cores, with work for several: all cores on one module after the other.
    bool split = modules < threads;
    double operations = 0;
    for (int64_t m = 0; m < modules; ++m) {
        const int64_t n = call.batch_of(m);
        split = split && static_cast<int64_t>(call.plan(n).runs.size()) >= threads;
        operations += work * static_cast<double>(call.net.parameters * n * steps);
    }
    const auto make = [&](auto& of_thread, int64_t m, int64_t first, int64_t count) {
        for (int64_t i = first; i < std::min(first + count, steps); ++i)
            f(of_thread, m, backwards ? steps - 1 - i : i);
    };
    if (split) {
        const OnAllThreads each;
        AdaptSteps<S, OnAllThreads> all(call, each);
        for (int64_t m = 0; m < modules; ++m) make(all, m, 0, steps);
        return;
    }
    // Below this a second thread costs more than it brings.
    constexpr double kSmallest = 4e6;  // floating-point operations
    const int64_t useful = std::max<int64_t>(1, static_cast<int64_t>(operations / kSmallest)),
                  workers = std::max<int64_t>(1, std::min({threads, modules, useful}));
    // Many modules: a core makes all steps of one. Few: single steps, so that the cores end together.
    const int64_t slice = modules >= 8 * workers || workers == 1 ? steps : 1;
    std::vector<int64_t> made(modules);
    std::deque<int64_t> all;
    for (int64_t m = 0; m < modules; ++m) all.push_back(m);
    FitQueue queue(std::move(all));
    const auto worker = [&](int64_t, int64_t) {
        const OnThisThread each;
        AdaptSteps<S, OnThisThread> own(call, each);
        for (int64_t m = queue.take(); m >= 0; m = queue.take()) {
            make(own, m, made[m], slice);
            made[m] += slice;
            if (made[m] < steps) queue.put_back(m);
        }
    };
    workers == 1 ? worker(0, 1) : torch::stable::parallel_for(0, workers, 1, worker);
}

template <class S>
void copy(const Net& net, const ParameterView<S>& from, const ParameterView<S>& to) {
    std::vector<S*> targets;
    to.each(net, [&](S* values, int64_t) { targets.push_back(values); });
    size_t t = 0;
    from.each(net, [&](const S* values, int64_t size) { std::copy(values, values + size, targets[t++]); });
}

// to [1, ...] = the sum over modules of from [M, ...], in their order.
template <class S>
void add_modules(const Tensors& from, const Tensors& to, int64_t modules) {
    for (size_t t = 0; t < from.size(); ++t) {
        const int64_t size = to[t].numel();
        const S* rows = data<S>(from[t]);
        S* sums = mutable_data<S>(to[t]);
        torch::stable::parallel_for(0, size, 1024, [&](int64_t begin, int64_t end) {
            std::fill(sums + begin, sums + end, S(0));
            for (int64_t m = 0; m < modules; ++m)
                for (int64_t i = begin; i < end; ++i) sums[i] += rows[m * size + i];
        });
    }
}

std::tuple<Tensors, Tensors, Tensor, Tensor> bank_adapt_fwd(
    Tensors weights, Tensors biases, Tensor rates, Tensor x, OptTensor offsets, Tensor target,
    OptTensor weight, OptTensor ids, OptTensor ids_weight, int64_t batch, int64_t frozen_layers, double clip,
    bool /*first_order*/, std::vector<int64_t> net_ints, std::vector<double> net_floats, bool need_starts) {
    return by_dtype(x, [&](auto zero) -> std::tuple<Tensors, Tensors, Tensor, Tensor> {
        using S = decltype(zero);
        const AdaptInputs<S> in(weights, biases, rates, x, offsets, target, weight, ids, ids_weight, batch,
                                frozen_layers, clip, net_ints, net_floats);
        const Net& net = in.net;
        ParameterTensors<S> adapted = ParameterTensors<S>::empty(net, in.modules, in.x);
        Tensor losses = torch::stable::new_empty(in.x, {in.steps, in.modules});
        Tensor starts =
            fresh(in.x, {need_starts ? in.modules : 0, std::max<int64_t>(0, in.steps - 1), net.parameters});
        S* of_step = mutable_data<S>(losses);
        for (int64_t m = 0; m < in.modules && in.steps == 0; ++m)
            copy(net, in.initial_of(m), ParameterView<S>(adapted, net, m));
        each_step(in.call, false, 6, [&](auto& steps, int64_t m, int64_t k) {
            const ParameterView<S> theta(adapted, net, m);
            if (k == 0) copy(net, in.initial_of(m), theta);
            if (k > 0 && need_starts) copy(net, theta, in.start_of(starts, m, k));
            of_step[k * in.modules + m] = steps.step(m, k, theta);
        });
        return {adapted.weight, adapted.bias, losses, starts};
    });
}

std::tuple<Tensors, Tensors, Tensor> bank_adapt_bwd(
    Tensors weights, Tensors biases, Tensor rates, Tensor x, OptTensor offsets, Tensor target,
    OptTensor weight, OptTensor ids, OptTensor ids_weight, int64_t batch, int64_t frozen_layers, double clip,
    bool first_order, std::vector<int64_t> net_ints, std::vector<double> net_floats, Tensor starts,
    Tensors grad_weights, Tensors grad_biases, OptTensor grad_losses, bool need_rates) {
    return by_dtype(x, [&](auto zero) -> std::tuple<Tensors, Tensors, Tensor> {
        using S = decltype(zero);
        const AdaptInputs<S> in(weights, biases, rates, x, offsets, target, weight, ids, ids_weight, batch,
                                frozen_layers, clip, net_ints, net_floats);
        const Net& net = in.net;
        const ScalarType dtype = in.x.scalar_type();
        const ParameterTensors<S> incoming("gradients", net, in.modules, grad_weights, grad_biases, dtype);
        const Tensor before = plain("starts", starts, dtype);
        const bool walks = need_rates || !first_order || grad_losses;
        if (walks)
            check_shape("starts", before, {in.modules, std::max<int64_t>(0, in.steps - 1), net.parameters});
        if (grad_losses) {
            grad_losses = plain("grad_losses", *grad_losses, dtype);
            check_shape("grad_losses", *grad_losses, {in.steps, in.modules});
        }
        const int64_t layers = static_cast<int64_t>(net.layers.size());
        ParameterTensors<S> grads = ParameterTensors<S>::empty(net, in.modules, in.x);
        Tensor of_rates = torch::stable::new_empty(in.rates, {need_rates ? in.steps : 0, in.modules, layers});
        S* to_rates = mutable_data<S>(of_rates);
        const S* of_losses = grad_losses ? data<S>(*grad_losses) : nullptr;
        const auto begin = [&](int64_t m) {
            copy(net, ParameterView<S>(incoming, net, m), ParameterView<S>(grads, net, m));
        };
        for (int64_t m = 0; m < in.modules && (!walks || in.steps == 0); ++m) begin(m);
        if (walks)
            each_step(in.call, true, first_order ? 6 : 16, [&](auto& steps, int64_t m, int64_t k) {
                if (k == in.steps - 1) begin(m);
                const ParameterView<S> theta = k == 0 ? in.initial_of(m) : in.start_of(before, m, k),
                                       v(grads, net, m);
                const int64_t row = k * in.modules + m;
                steps.back(m, k, theta.read(), v, of_losses ? of_losses[row] : S(0),
                           need_rates ? to_rates + row * layers : nullptr, !first_order);
            });
        if (!in.shared()) return {grads.weight, grads.bias, of_rates};
        const ParameterTensors<S> sums = ParameterTensors<S>::empty(net, 1, in.x);
        add_modules<S>(grads.weight, sums.weight, in.modules);
        add_modules<S>(grads.bias, sums.bias, in.modules);
        return {sums.weight, sums.bias, of_rates};
    });
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("bank_adapt_fwd", TORCH_BOX(&mclnf::bank_adapt_fwd));
    m.impl("bank_adapt_bwd", TORCH_BOX(&mclnf::bank_adapt_bwd));
}

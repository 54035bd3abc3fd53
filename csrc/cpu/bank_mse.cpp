// The squared error of every module over its points on the CPU: its gradient in the sweep that evaluates it,
// and its Hessian along a direction.
#include <torch/csrc/stable/library.h>

#include <optional>

#include "bank_inputs.h"

namespace mclnf {

namespace {

template <class S>
struct ErrorInputs : BankInputs<S> {
    Tensor target;
    std::optional<Tensor> weight;
    bool mean;

    ErrorInputs(const Tensor& x, const Tensor& offsets, const Tensors& w, const Tensors& b,
                const Tensor& target_in, const std::optional<Tensor>& weight_in,
                const std::vector<int64_t>& ints, const std::vector<double>& floats, bool mean_in)
        : BankInputs<S>(x, offsets, w, b, ints, floats),
          target(plain("target", target_in, x.scalar_type())),
          mean(mean_in) {
        check_shape("target", target, {this->points, this->net.out_dim});
        if (!weight_in) return;
        weight = plain("weight", *weight_in, x.scalar_type());
        check_shape("weight", *weight, {this->points});
    }
    Start<S> start(const Run& run, S scale) const {
        Start<S> from;
        from.target = data<S>(target) + run.begin * this->net.out_dim;
        from.weight = weight ? data<S>(*weight) + run.begin : nullptr;
        const int64_t values =
            (this->offsets[run.module + 1] - this->offsets[run.module]) * this->net.out_dim;
        from.scale = mean ? scale / static_cast<S>(values) : scale;
        return from;
    }
    Tensor factors(const Tensor& cotangent) const {
        Tensor found = plain("cotangent", cotangent, this->x.scalar_type());
        check_shape("cotangent", found, {this->modules});
        return found;
    }
};

// The gradients of sum_m factor_m loss_m (factors null: ones), and the losses where asked for.
template <class S>
Stack<S> sweep(const ErrorInputs<S>& in, const S* factors, bool gradients, S* loss) {
    Stack<S> grads = gradients ? Stack<S>::empty(in.net, in.modules, in.x) : Stack<S>();
    const Plan plan = Plan::fixed(in.offsets, kLeastPoints);
    RunSums<S> sums(in.net, in.modules, plan, grads);
    std::vector<double> errors(plan.runs.size());
    using Place = typename RunSums<S>::Place;
    each_run(plan, [&, par = in.walk(plan), own = Place(sums)](int64_t r, int64_t then) mutable {
        const Run& run = plan.runs[r];
        Start<S> start = in.start(run, factors ? factors[run.module] : S(1));
        start.error = &errors[r];
        bank_table<S>().backward(in.net, par.at(r, then), in.points_at(run.begin), run.end - run.begin, start,
                                 nullptr, own.of(run, streams(in)), {});
    });
    sums.finish();
    if (loss) {
        std::vector<double> total(in.modules, 0.0);
        for (size_t r = 0; r < errors.size(); ++r) total[plan.runs[r].module] += errors[r];
        for (int64_t m = 0; m < in.modules; ++m) loss[m] = static_cast<S>(total[m]);
    }
    return grads;
}

std::tuple<Tensor, Tensors, Tensors> bank_mse_fwd(Tensor x, Tensor offsets, Tensors w, Tensors b,
                                                  Tensor target, std::optional<Tensor> weight,
                                                  std::vector<int64_t> ints, std::vector<double> floats,
                                                  bool mean, bool need_params) {
    return by_dtype(x, [&](auto s) -> std::tuple<Tensor, Tensors, Tensors> {
        using S = decltype(s);
        const ErrorInputs<S> in(x, offsets, w, b, target, weight, ints, floats, mean);
        Tensor loss = torch::stable::new_empty(in.x, {in.modules});
        const Stack<S> grads = sweep<S>(in, nullptr, need_params, mutable_data<S>(loss));
        return {loss, grads.weight, grads.bias};
    });
}

std::tuple<Tensors, Tensors> bank_mse_bwd(Tensor x, Tensor offsets, Tensors w, Tensors b, Tensor target,
                                          std::optional<Tensor> weight, Tensor cotangent, Tensors known_w,
                                          Tensors known_b, std::vector<int64_t> ints,
                                          std::vector<double> floats, bool mean) {
    return by_dtype(x, [&](auto s) -> std::tuple<Tensors, Tensors> {
        using S = decltype(s);
        const ErrorInputs<S> in(x, offsets, w, b, target, weight, ints, floats, mean);
        const Tensor held = in.factors(cotangent);
        const S* factors = data<S>(held);
        if (known_w.empty()) {
            const Stack<S> grads = sweep<S>(in, factors, true, nullptr);
            return {grads.weight, grads.bias};
        }
        const Stack<S> known("known gradients", in.net, in.modules, known_w, known_b, x.scalar_type());
        Stack<S> grads = Stack<S>::empty(in.net, in.modules, in.x);
        torch::stable::parallel_for(0, in.modules, 1, [&](int64_t begin, int64_t end) {
            for (int64_t m = begin; m < end; ++m)
                for (size_t l = 0; l < in.net.layers.size(); ++l) {
                    const int64_t biases = in.net.layers[l].out, weights = in.net.layers[l].in * biases;
                    const auto scaled = [&](const Tensor& from, const Tensor& to, int64_t size) {
                        const S* a = data<S>(from) + m * size;
                        S* o = mutable_data<S>(to) + m * size;
                        for (int64_t i = 0; i < size; ++i) o[i] = factors[m] * a[i];
                    };
                    scaled(known.weight[l], grads.weight[l], weights);
                    scaled(known.bias[l], grads.bias[l], biases);
                }
        });
        return {grads.weight, grads.bias};
    });
}

std::tuple<Tensors, Tensors> bank_mse_bwd_bwd(Tensor x, Tensor offsets, Tensors w, Tensors b, Tensor target,
                                              std::optional<Tensor> weight, Tensor cotangent,
                                              Tensors tangent_w, Tensors tangent_b, std::vector<int64_t> ints,
                                              std::vector<double> floats, bool mean) {
    return by_dtype(x, [&](auto s) -> std::tuple<Tensors, Tensors> {
        using S = decltype(s);
        const ErrorInputs<S> in(x, offsets, w, b, target, weight, ints, floats, mean);
        const Tensor held = in.factors(cotangent);
        const Stack<S> tangent("tangents", in.net, in.modules, tangent_w, tangent_b, x.scalar_type());
        Stack<S> grads = Stack<S>::empty(in.net, in.modules, in.x);
        const Plan plan = Plan::fixed(in.offsets, kLeastPoints);
        RunSums<S> sums(in.net, in.modules, plan, grads);
        using Place = typename RunSums<S>::Place;
        each_run(plan, [&, par = in.walk(plan), dir = Walk<S>(plan, View<S>(tangent, in.net)),
                        own = Place(sums)](int64_t r, int64_t then) mutable {
            const Run& run = plan.runs[r];
            bank_table<S>().second(in.net, par.at(r, then), in.points_at(run.begin), run.end - run.begin,
                                   in.start(run, data<S>(held)[run.module]), nullptr, dir.at(r, then),
                                   nullptr, own.of(run), nullptr);
        });
        sums.finish();
        return {grads.weight, grads.bias};
    });
}

}  // namespace

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("bank_mse_fwd", TORCH_BOX(&mclnf::bank_mse_fwd));
    m.impl("bank_mse_bwd", TORCH_BOX(&mclnf::bank_mse_bwd));
    m.impl("bank_mse_bwd_bwd", TORCH_BOX(&mclnf::bank_mse_bwd_bwd));
}

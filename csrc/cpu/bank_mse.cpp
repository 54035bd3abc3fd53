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
    // Of a run's points; factor: of the module's loss.
    OutputGradient<S> output_gradient(const Run& run, S factor) const {
        OutputGradient<S> gradient;
        gradient.target = this->outputs_at(target, run.begin);
        gradient.weight = weight ? data<S>(*weight) + run.begin : nullptr;
        const int64_t values =
            (this->offsets[run.module + 1] - this->offsets[run.module]) * this->net.out_dim;
        gradient.scale = mean ? factor / static_cast<S>(values) : factor;
        return gradient;
    }
    Tensor checked_cotangent(const Tensor& cotangent) const {
        Tensor checked = plain("cotangent", cotangent, this->x.scalar_type());
        check_shape("cotangent", checked, {this->modules});
        return checked;
    }
};

// The gradients of sum_m factor_m loss_m (factors null: ones), and the losses if asked for: the backward
// sweep evaluates the error on its way, so that a forward pass of its own would be wasted.
template <class S>
ParameterTensors<S> sweep(const ErrorInputs<S>& in, const S* factors, bool gradients, S* loss) {
    ParameterTensors<S> grads = in.new_gradients(gradients);
    const Plan plan = Plan::fixed(in.offsets, kMinPoints);
    RunSums<S> sums(in.net, in.modules, plan, grads);
    std::vector<double> errors(plan.runs.size());
    using Output = typename RunSums<S>::Output;
    each_run(
        plan, [&, par = in.run_parameters(plan), output = Output(sums)](int64_t r, int64_t then) mutable {
            const Run& run = plan.runs[r];
            BackwardResults<S> results;
            results.grads = output.of(run, in.streams_gradients());
            results.error = &errors[r];
            bank_table<S>().backward(in.net, in.module_points(par.at(r, then), run.begin, run.end),
                                     in.output_gradient(run, factors ? factors[run.module] : S(1)), results);
        });
    sums.finish();
    if (loss) add_errors(plan, errors, in.modules, loss);
    return grads;
}

// The known gradients (weights, biases) of each module times its factor.
template <class S>
ParameterTensors<S> scaled(const ErrorInputs<S>& in, const ParameterTensors<S>& known, const S* factors) {
    ParameterTensors<S> grads = in.new_gradients();
    torch::stable::parallel_for(0, in.modules, 1, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; ++m) {
            const auto scale = [&](const Tensor& from, const Tensor& to, int64_t size) {
                const S* a = data<S>(from) + m * size;
                S* o = mutable_data<S>(to) + m * size;
                for (int64_t i = 0; i < size; ++i) o[i] = factors[m] * a[i];
            };
            for (size_t l = 0; l < in.net.layers.size(); ++l) {
                scale(known.weight[l], grads.weight[l], in.net.layers[l].weights());
                scale(known.bias[l], grads.bias[l], in.net.layers[l].out);
            }
        }
    });
    return grads;
}

// The product of the Hessian of sum_m factor_m loss_m with a direction.
template <class S>
ParameterTensors<S> hessian_product(const ErrorInputs<S>& in, const S* factors,
                                    const ParameterTensors<S>& tangent) {
    ParameterTensors<S> grads = in.new_gradients();
    const Plan plan = Plan::fixed(in.offsets, kMinPoints);
    RunSums<S> sums(in.net, in.modules, plan, grads);
    using Output = typename RunSums<S>::Output;
    each_run(plan, [&, par = in.run_parameters(plan),
                    direction = RunParameters<S>(plan, ParameterView<S>(tangent, in.net)),
                    output = Output(sums)](int64_t r, int64_t then) mutable {
        const Run& run = plan.runs[r];
        const Tangents<S> tangents{nullptr, direction.at(r, then)};
        const SecondResults<S> results{nullptr, output.of(run), nullptr};
        bank_table<S>().second(in.net, in.module_points(par.at(r, then), run.begin, run.end),
                               in.output_gradient(run, factors[run.module]), tangents, results);
    });
    sums.finish();
    return grads;
}

std::tuple<Tensor, Tensors, Tensors> bank_mse_fwd(Tensor x, Tensor offsets, Tensors w, Tensors b,
                                                  Tensor target, std::optional<Tensor> weight,
                                                  std::vector<int64_t> ints, std::vector<double> floats,
                                                  bool mean, bool need_params) {
    return by_dtype(x, [&](auto s) -> std::tuple<Tensor, Tensors, Tensors> {
        using S = decltype(s);
        const ErrorInputs<S> in(x, offsets, w, b, target, weight, ints, floats, mean);
        Tensor loss = fresh(in.x, {in.modules});
        const ParameterTensors<S> grads = sweep<S>(in, nullptr, need_params, mutable_data<S>(loss));
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
        const Tensor factors = in.checked_cotangent(cotangent);
        const ParameterTensors<S> grads =
            known_w.empty()
                ? sweep<S>(in, data<S>(factors), true, nullptr)
                : scaled<S>(in, {"known gradients", in.net, in.modules, known_w, known_b, x.scalar_type()},
                            data<S>(factors));
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
        const Tensor factors = in.checked_cotangent(cotangent);
        const ParameterTensors<S> tangent("tangents", in.net, in.modules, tangent_w, tangent_b,
                                          x.scalar_type());
        const ParameterTensors<S> grads = hessian_product<S>(in, data<S>(factors), tangent);
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

// Bank MLP on the CPU: forward, backward and double backward, split over
// modules and points.
#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "bank_inputs.h"

namespace mclnf {

namespace {

// The instruction set whose kernels run: the best that the processor has, or that MCLNF_FAST_ISA names.
std::string chosen_set() {
    const char* forced = std::getenv("MCLNF_FAST_ISA");
    const std::string name = forced ? forced : "";
    STD_TORCH_CHECK(
        name.empty() || name == "avx512" || name == "avx2" || name == "neon" || name == "portable",
        "the environment variable MCLNF_FAST_ISA must be avx512, "
        "avx2, neon or portable, got ",
        name);
#if defined(__x86_64__)
    const bool has2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#ifdef MCLNF_EMULATE
    const bool has512 = has2 && name == "avx512";  // only by name: it is slow
#else
    const bool has512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
    STD_TORCH_CHECK(name != "avx512" || has512, "MCLNF_FAST_ISA=avx512, but this processor lacks it");
    STD_TORCH_CHECK(name != "avx2" || has2, "MCLNF_FAST_ISA=avx2, but this processor lacks it");
    STD_TORCH_CHECK(name != "neon", "MCLNF_FAST_ISA=neon, but this processor is no aarch64");
    if (name.empty()) return has512 ? "avx512" : has2 ? "avx2" : "portable";
#else
#if defined(MCLNF_HAS_NEON)  // every aarch64 processor has it
    const char* best = "neon";
#else
    const char* best = "portable";
#endif
    STD_TORCH_CHECK(name.empty() || name == best || name == "portable", "MCLNF_FAST_ISA=", name,
                    ", but this processor is no ", name == "neon" ? "aarch64" : "x86-64");
    if (name.empty()) return best;
#endif
    return name;
}

// The memory in which the runs of a plan save their activations. If there is not room for all, a share of the
// runs does, spread over them evenly: those that save take less time backward, and side by side they would
// all be one thread's.
template <class S>
class SavedActivations {
  public:
    SavedActivations() = default;
    SavedActivations(const Net& net, const Plan& plan, const Tensor& memory) {
        S* next = mutable_data<S>(memory);
        int64_t all = 0, seen = 0, saved = 0, left = memory.numel();
        const auto values = [&](const Run& run) {
            return saved_values(net, run.size(), bank_table<S>().lanes);
        };
        for (const Run& run : plan.runs) all += values(run);
        const double share = all > 0 ? static_cast<double>(left) / static_cast<double>(all) : 0;
        for (const Run& run : plan.runs) {
            const int64_t size = values(run);
            seen += size;
            const bool due = static_cast<double>(saved + size) <= share * static_cast<double>(seen);
            const bool saves = size > 0 && size <= left && due;
            of_run_.push_back(saves ? next : nullptr);
            if (!saves) continue;
            next += size;
            left -= size;
            saved += size;
        }
    }
    S* of(int64_t run) const { return of_run_.empty() ? nullptr : of_run_[run]; }

  private:
    std::vector<S*> of_run_;
};

// saved: memory for the hidden activations that the backward reads, or null.
template <class S>
Tensor forward(const BankInputs<S>& in, const Tensor* saved) {
    Tensor y = fresh(in.x, {in.points, in.net.out_dim});
    const BankTable<S>& table = bank_table<S>();
    // The backward finds a run's activations by the same plan.
    const Plan plan = saved ? Plan::fixed(in.offsets, kMinPoints) : Plan::free(in.offsets);
    const auto activations = saved ? SavedActivations<S>(in.net, plan, *saved) : SavedActivations<S>();
    Value<S>* out = mutable_data<Value<S>>(y);
    each_run(plan, [&, par = in.run_parameters(plan)](int64_t r, int64_t then) mutable {
        const Run& run = plan.runs[r];
        table.forward(in.net, in.module_points(par.at(r, then), run.begin, run.end),
                      out + run.begin * in.net.out_dim, activations.of(r));
    });
    return y;
}

template <class S>
std::tuple<Tensor, Tensors, Tensors> backward(const BankInputs<S>& in, const Tensor& grad_y, bool need_x,
                                              bool need_params, const Tensor* saved) {
    Tensor grad_x = fresh(in.x, {need_x ? in.points : 0, in.net.in_dim});
    ParameterTensors<S> grads = in.new_gradients(need_params);
    const BankTable<S>& table = bank_table<S>();
    const Plan plan = need_params || saved ? Plan::fixed(in.offsets, kMinPoints) : Plan::free(in.offsets);
    const auto activations = saved ? SavedActivations<S>(in.net, plan, *saved) : SavedActivations<S>();
    RunSums<S> sums(in.net, in.modules, plan, grads);
    Value<S>* out = need_x ? mutable_data<Value<S>>(grad_x) : nullptr;
    using Output = typename RunSums<S>::Output;
    each_run(
        plan, [&, par = in.run_parameters(plan), output = Output(sums)](int64_t r, int64_t then) mutable {
            const Run& run = plan.runs[r];
            OutputGradient<S> gradient;
            gradient.grad_y = in.outputs_at(grad_y, run.begin);
            BackwardResults<S> results;
            results.grad_x = out ? out + run.begin * in.net.in_dim : nullptr;
            results.grads = output.of(run, in.streams_gradients());
            table.backward(in.net, in.module_points(par.at(r, then), run.begin, run.end, activations.of(r)),
                           gradient, results);
            output.done(run);
        });
    sums.finish();
    return {grad_x, grads.weight, grads.bias};
}

template <class S>
std::tuple<Tensor, Tensors, Tensors, Tensor> second(const BankInputs<S>& in, const Tensor& grad_y,
                                                    const Tensor* tangent_x,
                                                    const ParameterTensors<S>& tangent_parameters,
                                                    bool need_x) {
    Tensor grad_x = fresh(in.x, {need_x ? in.points : 0, in.net.in_dim});
    Tensor grad_grad_y = fresh(in.x, {in.points, in.net.out_dim});
    ParameterTensors<S> grads = in.new_gradients();
    const BankTable<S>& table = bank_table<S>();
    const Plan plan = Plan::fixed(in.offsets, kMinPoints);
    RunSums<S> sums(in.net, in.modules, plan, grads);
    using Output = typename RunSums<S>::Output;
    each_run(plan, [&, par = in.run_parameters(plan),
                    direction = RunParameters<S>(plan, ParameterView<S>(tangent_parameters, in.net)),
                    output = Output(sums)](int64_t r, int64_t then) mutable {
        const Run& run = plan.runs[r];
        const int64_t first_x = run.begin * in.net.in_dim;
        OutputGradient<S> gradient;
        gradient.grad_y = in.outputs_at(grad_y, run.begin);
        const Tangents<S> tangents{tangent_x ? data<Value<S>>(*tangent_x) + first_x : nullptr,
                                   direction.at(r, then)};
        const SecondResults<S> results{need_x ? mutable_data<Value<S>>(grad_x) + first_x : nullptr,
                                       output.of(run),
                                       mutable_data<Value<S>>(grad_grad_y) + run.begin * in.net.out_dim};
        table.second(in.net, in.module_points(par.at(r, then), run.begin, run.end), gradient, tangents,
                     results);
        output.done(run);
    });
    sums.finish();
    return {grad_x, grads.weight, grads.bias, grad_grad_y};
}

// Calls f of the type of the weights behind the first layer's: bf16, or the type of x.
template <class F>
auto by_bank_dtype(const Tensor& x, const Tensors& w, const F& f) {
    return !w.empty() && w.back().scalar_type() == ScalarType::BFloat16 ? f(Bf16()) : by_dtype(x, f);
}

Tensor bank_mlp_fwd(Tensor x, Tensor offsets, Tensors w, Tensors b, std::vector<int64_t> ints,
                    std::vector<double> floats) {
    return by_bank_dtype(x, w, [&](auto s) {
        using S = decltype(s);
        return forward<S>(BankInputs<S>(x, offsets, w, b, ints, floats), nullptr);
    });
}

// The same, and `values` activations that the backward would compute again.
std::tuple<Tensor, Tensor> bank_mlp_fwd_keep(Tensor x, Tensor offsets, Tensors w, Tensors b,
                                             std::vector<int64_t> ints, std::vector<double> floats,
                                             int64_t values) {
    STD_TORCH_CHECK(values >= 0, "mclnf_fast: values must not be negative, got ", values);
    return by_dtype(x, [&](auto s) -> std::tuple<Tensor, Tensor> {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        Tensor saved = fresh(in.x, {values});
        Tensor y = forward<S>(in, &saved);
        return {y, saved};
    });
}

std::tuple<Tensor, Tensors, Tensors> bank_mlp_bwd(Tensor x, Tensor offsets, Tensors w, Tensors b,
                                                  Tensor grad_y, std::vector<int64_t> ints,
                                                  std::vector<double> floats, bool need_x, bool need_params,
                                                  std::optional<Tensor> saved) {
    return by_bank_dtype(x, w, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        const Tensor gy = plain("grad_y", grad_y, x.scalar_type());
        check_shape("grad_y", gy, {in.points, in.net.out_dim});
        if (saved) {  // the argument `kept` of the op
            *saved = plain("kept", *saved, x.scalar_type());
            check_shape("kept", *saved, {saved->numel()});
        }
        return backward<S>(in, gy, need_x, need_params, saved ? &*saved : nullptr);
    });
}

std::tuple<Tensor, Tensors, Tensors, Tensor> bank_mlp_bwd_bwd(Tensor x, Tensor offsets, Tensors w, Tensors b,
                                                              Tensor grad_y, std::optional<Tensor> tangent_x,
                                                              Tensors tangent_w, Tensors tangent_b,
                                                              std::vector<int64_t> ints,
                                                              std::vector<double> floats, bool need_x) {
    return by_bank_dtype(x, w, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        const Tensor gy = plain("grad_y", grad_y, x.scalar_type());
        check_shape("grad_y", gy, {in.points, in.net.out_dim});
        if (tangent_x) {
            *tangent_x = plain("tangent_x", *tangent_x, x.scalar_type());
            check_shape("tangent_x", *tangent_x, {in.points, in.net.in_dim});
        }
        return second<S>(
            in, gy, tangent_x ? &*tangent_x : nullptr,
            ParameterTensors<S>("tangents", in.net, in.modules, tangent_w, tangent_b, w.back().scalar_type()),
            need_x);
    });
}

std::string cpu_instruction_set() { return bank_table<float>().name; }

}  // namespace

template <>
const BankTable<float>& bank_table<float>() {
    static const std::string set = chosen_set();
#if defined(__x86_64__)
    if (set == "avx512") return avx512::table_float;
    if (set == "avx2") return avx2::table_float;
#elif defined(MCLNF_HAS_NEON)
    if (set == "neon") return neon::table_float;
#endif
    return portable::table_float;
}
template <>
const BankTable<double>& bank_table<double>() {
    static const std::string set = chosen_set();
#if defined(__x86_64__)
    if (set == "avx512" || set == "avx2") return avx2::table_double;
#elif defined(MCLNF_HAS_NEON)
    if (set == "neon") return neon::table_double;
#endif
    return portable::table_double;
}

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("bank_mlp_fwd", TORCH_BOX(&mclnf::bank_mlp_fwd));
    m.impl("bank_mlp_fwd_keep", TORCH_BOX(&mclnf::bank_mlp_fwd_keep));
    m.impl("bank_mlp_bwd", TORCH_BOX(&mclnf::bank_mlp_bwd));
    m.impl("bank_mlp_bwd_bwd", TORCH_BOX(&mclnf::bank_mlp_bwd_bwd));
}
STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CompositeExplicitAutograd, m) {
    m.impl("cpu_instruction_set", TORCH_BOX(&mclnf::cpu_instruction_set));
}

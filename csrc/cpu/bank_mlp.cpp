// Bank MLP on the CPU: forward, backward and double backward, split over
// modules and points.
#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <string>

#include "bank_inputs.h"

namespace mclnf {

namespace {

std::string chosen_set() {
    const char* forced = std::getenv("MCLNF_FAST_ISA");
    const std::string name = forced ? forced : "";
    STD_TORCH_CHECK(name.empty() || name == "avx512" || name == "avx2" || name == "portable",
                    "the environment variable MCLNF_FAST_ISA must be avx512, "
                    "avx2 or portable, got ",
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
    if (name.empty()) return has512 ? "avx512" : has2 ? "avx2" : "portable";
#else
    STD_TORCH_CHECK(name.empty() || name == "portable", "MCLNF_FAST_ISA=", name,
                    ", but this processor is no x86-64");
#endif
    return name.empty() ? "portable" : name;
}

// Points below which a run is not worth cutting further.
constexpr int64_t kLeastPoints = 512;
// Bytes of gradients beyond which the first are gone from the caches before the last are there.
constexpr size_t kStreamFrom = size_t(64) << 20;

template <class S>
Tensor forward(const BankInputs<S>& in) {
    Tensor y = torch::stable::new_empty(in.x, {in.points, in.net.out_dim});
    const BankTable<S>& table = bank_table<S>();
    const Plan plan = Plan::free(in.offsets);
    S* out = mutable_data<S>(y);
    torch::stable::parallel_for(0, static_cast<int64_t>(plan.runs.size()), 1,
                                [&](int64_t begin, int64_t end) {
                                    for (int64_t r = begin; r < end; ++r) {
                                        const Run& run = plan.runs[r];
                                        const View<S> par(in.parameters, in.net, run.module);
                                        table.forward(in.net, par.read(), in.points_at(run.begin),
                                                      run.end - run.begin, out + run.begin * in.net.out_dim);
                                    }
                                });
    return y;
}

template <class S>
std::tuple<Tensor, Tensors, Tensors> backward(const BankInputs<S>& in, const Tensor& grad_y, bool need_x,
                                              bool need_params) {
    Tensor gx = torch::stable::new_empty(in.x, {need_x ? in.points : 0, in.net.in_dim});
    Stack<S> grads = need_params ? Stack<S>::empty(in.net, in.modules, in.x) : Stack<S>();
    const BankTable<S>& table = bank_table<S>();
    const Plan plan = need_params ? Plan::fixed(in.offsets, kLeastPoints) : Plan::free(in.offsets);
    RunSums<S> sums(in.net, in.modules, plan, grads);
    const bool stream = !RunSums<S>::kRounds && in.modules * in.net.parameters * sizeof(S) > kStreamFrom;
    const S* gy = data<S>(grad_y);
    S* out = need_x ? mutable_data<S>(gx) : nullptr;
    torch::stable::parallel_for(
        0, static_cast<int64_t>(plan.runs.size()), 1, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const Run& run = plan.runs[r];
                const View<S> par(in.parameters, in.net, run.module);
                auto own = sums.of(run);
                table.backward(in.net, par.read(), in.points_at(run.begin), run.end - run.begin,
                               gy + run.begin * in.net.out_dim,
                               out ? out + run.begin * in.net.in_dim : nullptr, own.write(stream), {});
                sums.done(run);
            }
        });
    sums.finish();
    return {gx, grads.weight, grads.bias};
}

template <class S>
std::tuple<Tensor, Tensors, Tensors, Tensor> second(const BankInputs<S>& in, const Tensor& grad_y,
                                                    const Tensor& tangent_x, const Stack<S>& tangent) {
    Tensor gx = torch::stable::new_empty(in.x, {in.points, in.net.in_dim});
    Tensor ggy = torch::stable::new_empty(in.x, {in.points, in.net.out_dim});
    Stack<S> grads = Stack<S>::empty(in.net, in.modules, in.x);
    const BankTable<S>& table = bank_table<S>();
    const Plan plan = Plan::fixed(in.offsets, kLeastPoints);
    RunSums<S> sums(in.net, in.modules, plan, grads);
    torch::stable::parallel_for(
        0, static_cast<int64_t>(plan.runs.size()), 1, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const Run& run = plan.runs[r];
                const View<S> par(in.parameters, in.net, run.module), dir(tangent, in.net, run.module);
                auto own = sums.of(run);
                const int64_t x_at = run.begin * in.net.in_dim, y_at = run.begin * in.net.out_dim;
                table.second(in.net, par.read(), in.points_at(run.begin), run.end - run.begin,
                             data<S>(grad_y) + y_at, data<S>(tangent_x) + x_at, dir.read(),
                             mutable_data<S>(gx) + x_at, own.write(), mutable_data<S>(ggy) + y_at);
                sums.done(run);
            }
        });
    sums.finish();
    return {gx, grads.weight, grads.bias, ggy};
}

template <class F>
auto by_bank_dtype(const Tensor& x, const F& f) {
    return x.scalar_type() == ScalarType::BFloat16 ? f(Bf16()) : by_dtype(x, f);
}

Tensor bank_mlp_fwd(Tensor x, Tensor offsets, Tensors w, Tensors b, std::vector<int64_t> ints,
                    std::vector<double> floats) {
    return by_bank_dtype(x, [&](auto s) {
        using S = decltype(s);
        return forward<S>(BankInputs<S>(x, offsets, w, b, ints, floats));
    });
}

std::tuple<Tensor, Tensors, Tensors> bank_mlp_bwd(Tensor x, Tensor offsets, Tensors w, Tensors b,
                                                  Tensor grad_y, std::vector<int64_t> ints,
                                                  std::vector<double> floats, bool need_x, bool need_params) {
    return by_bank_dtype(x, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        const Tensor gy = plain("grad_y", grad_y, x.scalar_type());
        check_shape("grad_y", gy, {in.points, in.net.out_dim});
        return backward<S>(in, gy, need_x, need_params);
    });
}

std::tuple<Tensor, Tensors, Tensors, Tensor> bank_mlp_bwd_bwd(Tensor x, Tensor offsets, Tensors w, Tensors b,
                                                              Tensor grad_y, Tensor tangent_x,
                                                              Tensors tangent_w, Tensors tangent_b,
                                                              std::vector<int64_t> ints,
                                                              std::vector<double> floats) {
    return by_bank_dtype(x, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        const Tensor gy = plain("grad_y", grad_y, x.scalar_type()),
                     tx = plain("tangent_x", tangent_x, x.scalar_type());
        check_shape("grad_y", gy, {in.points, in.net.out_dim});
        check_shape("tangent_x", tx, {in.points, in.net.in_dim});
        return second<S>(in, gy, tx,
                         Stack<S>("tangents", in.net, in.modules, tangent_w, tangent_b, x.scalar_type()));
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
#endif
    return portable::table_float;
}
template <>
const BankTable<double>& bank_table<double>() {
    static const std::string set = chosen_set();
#if defined(__x86_64__)
    if (set == "avx512" || set == "avx2") return avx2::table_double;
#endif
    return portable::table_double;
}

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("bank_mlp_fwd", TORCH_BOX(&mclnf::bank_mlp_fwd));
    m.impl("bank_mlp_bwd", TORCH_BOX(&mclnf::bank_mlp_bwd));
    m.impl("bank_mlp_bwd_bwd", TORCH_BOX(&mclnf::bank_mlp_bwd_bwd));
}
STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CompositeExplicitAutograd, m) {
    m.impl("cpu_instruction_set", TORCH_BOX(&mclnf::cpu_instruction_set));
}

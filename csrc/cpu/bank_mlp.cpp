// Bank MLP on the CPU: forward, backward and double backward, split over
// modules and points.
#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <optional>
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

// Where the runs of a plan keep their activations. A share of the runs does where there is not room for all,
// spread over them evenly: those that keep take less time backward.
template <class S>
class Kept {
  public:
    Kept() = default;
    Kept(const Net& net, const Plan& plan, const Tensor& memory) {
        S* at = mutable_data<S>(memory);
        int64_t all = 0, done = 0, left = memory.numel();
        const auto size = [&](const Run& run) {
            return kept_values(net, run.end - run.begin, bank_table<S>().lanes);
        };
        for (const Run& run : plan.runs) all += size(run);
        const double share = all > 0 ? static_cast<double>(left) / static_cast<double>(all) : 0;
        for (const Run& run : plan.runs) {
            const int64_t own = size(run);
            const bool wanted = static_cast<double>(done + own) <= share * static_cast<double>(seen_ += own);
            const bool keeps = own > 0 && own <= left && wanted;
            of_.push_back(keeps ? at : nullptr);
            if (!keeps) continue;
            at += own;
            left -= own;
            done += own;
        }
    }
    S* of(int64_t run) const { return of_.empty() ? nullptr : of_[run]; }

  private:
    std::vector<S*> of_;
    int64_t seen_ = 0;
};

template <class S>
Tensor forward(const BankInputs<S>& in, const Tensor* keep) {
    Tensor y = fresh(in.x, {in.points, in.net.out_dim});
    const BankTable<S>& table = bank_table<S>();
    const Plan plan = keep ? Plan::fixed(in.offsets, kLeastPoints) : Plan::free(in.offsets);
    const Kept<S> kept = keep ? Kept<S>(in.net, plan, *keep) : Kept<S>();
    S* out = mutable_data<S>(y);
    each_run(plan, [&, par = in.walk(plan)](int64_t r, int64_t then) mutable {
        const Run& run = plan.runs[r];
        table.forward(in.net, par.at(r, then), in.points_at(run.begin), run.end - run.begin,
                      out + run.begin * in.net.out_dim, kept.of(r));
    });
    return y;
}

template <class S>
std::tuple<Tensor, Tensors, Tensors> backward(const BankInputs<S>& in, const Tensor& grad_y, bool need_x,
                                              bool need_params, const Tensor* keep) {
    Tensor gx = torch::stable::new_empty(in.x, {need_x ? in.points : 0, in.net.in_dim});
    Stack<S> grads = need_params ? Stack<S>::empty(in.net, in.modules, in.x) : Stack<S>();
    const BankTable<S>& table = bank_table<S>();
    const Plan plan = need_params || keep ? Plan::fixed(in.offsets, kLeastPoints) : Plan::free(in.offsets);
    const Kept<S> kept = keep ? Kept<S>(in.net, plan, *keep) : Kept<S>();
    RunSums<S> sums(in.net, in.modules, plan, grads);
    const S* gy = data<S>(grad_y);
    S* out = need_x ? mutable_data<S>(gx) : nullptr;
    using Place = typename RunSums<S>::Place;
    each_run(plan, [&, par = in.walk(plan), own = Place(sums)](int64_t r, int64_t then) mutable {
        const Run& run = plan.runs[r];
        Start<S> start;
        start.grad_y = gy + run.begin * in.net.out_dim;
        start.kept = kept.of(r);
        table.backward(in.net, par.at(r, then), in.points_at(run.begin), run.end - run.begin, start,
                       out ? out + run.begin * in.net.in_dim : nullptr, own.of(run, streams(in)), {});
        own.done(run);
    });
    sums.finish();
    return {gx, grads.weight, grads.bias};
}

template <class S>
std::tuple<Tensor, Tensors, Tensors, Tensor> second(const BankInputs<S>& in, const Tensor& grad_y,
                                                    const Tensor* tangent_x, const Stack<S>& tangent,
                                                    bool need_x) {
    Tensor gx = torch::stable::new_empty(in.x, {need_x ? in.points : 0, in.net.in_dim});
    Tensor ggy = torch::stable::new_empty(in.x, {in.points, in.net.out_dim});
    Stack<S> grads = Stack<S>::empty(in.net, in.modules, in.x);
    const BankTable<S>& table = bank_table<S>();
    const Plan plan = Plan::fixed(in.offsets, kLeastPoints);
    RunSums<S> sums(in.net, in.modules, plan, grads);
    using Place = typename RunSums<S>::Place;
    each_run(plan, [&, par = in.walk(plan), dir = Walk<S>(plan, View<S>(tangent, in.net)), own = Place(sums)](
                       int64_t r, int64_t then) mutable {
        const Run& run = plan.runs[r];
        const int64_t x_at = run.begin * in.net.in_dim, y_at = run.begin * in.net.out_dim;
        Start<S> start;
        start.grad_y = data<S>(grad_y) + y_at;
        table.second(in.net, par.at(r, then), in.points_at(run.begin), run.end - run.begin, start,
                     tangent_x ? data<S>(*tangent_x) + x_at : nullptr, dir.at(r, then),
                     need_x ? mutable_data<S>(gx) + x_at : nullptr, own.of(run), mutable_data<S>(ggy) + y_at);
        own.done(run);
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
        return forward<S>(BankInputs<S>(x, offsets, w, b, ints, floats), nullptr);
    });
}

// The same, and what the backward would compute again: `values` of it.
std::tuple<Tensor, Tensor> bank_mlp_fwd_keep(Tensor x, Tensor offsets, Tensors w, Tensors b,
                                             std::vector<int64_t> ints, std::vector<double> floats,
                                             int64_t values) {
    STD_TORCH_CHECK(values >= 0, "mclnf_fast: values must not be negative, got ", values);
    return by_dtype(x, [&](auto s) -> std::tuple<Tensor, Tensor> {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        Tensor kept = fresh(in.x, {values});
        Tensor y = forward<S>(in, &kept);
        return {y, kept};
    });
}

std::tuple<Tensor, Tensors, Tensors> bank_mlp_bwd(Tensor x, Tensor offsets, Tensors w, Tensors b,
                                                  Tensor grad_y, std::vector<int64_t> ints,
                                                  std::vector<double> floats, bool need_x, bool need_params,
                                                  std::optional<Tensor> kept) {
    return by_bank_dtype(x, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        const Tensor gy = plain("grad_y", grad_y, x.scalar_type());
        check_shape("grad_y", gy, {in.points, in.net.out_dim});
        if (kept) {
            *kept = plain("kept", *kept, x.scalar_type());
            check_shape("kept", *kept, {kept->numel()});
        }
        return backward<S>(in, gy, need_x, need_params, kept ? &*kept : nullptr);
    });
}

std::tuple<Tensor, Tensors, Tensors, Tensor> bank_mlp_bwd_bwd(Tensor x, Tensor offsets, Tensors w, Tensors b,
                                                              Tensor grad_y, std::optional<Tensor> tangent_x,
                                                              Tensors tangent_w, Tensors tangent_b,
                                                              std::vector<int64_t> ints,
                                                              std::vector<double> floats, bool need_x) {
    return by_bank_dtype(x, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        const Tensor gy = plain("grad_y", grad_y, x.scalar_type());
        check_shape("grad_y", gy, {in.points, in.net.out_dim});
        if (tangent_x) {
            *tangent_x = plain("tangent_x", *tangent_x, x.scalar_type());
            check_shape("tangent_x", *tangent_x, {in.points, in.net.in_dim});
        }
        return second<S>(in, gy, tangent_x ? &*tangent_x : nullptr,
                         Stack<S>("tangents", in.net, in.modules, tangent_w, tangent_b, x.scalar_type()),
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
    m.impl("bank_mlp_fwd_keep", TORCH_BOX(&mclnf::bank_mlp_fwd_keep));
    m.impl("bank_mlp_bwd", TORCH_BOX(&mclnf::bank_mlp_bwd));
    m.impl("bank_mlp_bwd_bwd", TORCH_BOX(&mclnf::bank_mlp_bwd_bwd));
}
STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CompositeExplicitAutograd, m) {
    m.impl("cpu_instruction_set", TORCH_BOX(&mclnf::cpu_instruction_set));
}

// The squared error of the pixels that a bank's rays are composited to, and its gradients in the sweep that
// evaluates it, on the CPU.
#include <torch/csrc/stable/library.h>

#include <optional>

#include "bank_inputs.h"

namespace mclnf {

namespace {

constexpr int64_t kLeastRays = 64;

template <class S>
struct RayInputs : BankInputs<S> {
    std::vector<int64_t> rays, owned;  // the first point of each ray, the first ray of each module
    Tensor widths, target;
    std::optional<Tensor> weight, background;

    RayInputs(const Tensor& x, const Tensor& offsets, const Tensors& w, const Tensors& b,
              const Tensor& rays_in, const Tensor& ray_offsets, const Tensor& widths_in,
              const Tensor& target_in, const std::optional<Tensor>& weight_in,
              const std::optional<Tensor>& background_in, const std::vector<int64_t>& ints,
              const std::vector<double>& floats)
        : BankInputs<S>(x, offsets, w, b, ints, floats),
          rays(BankInputs<S>::read_offsets("rays", rays_in, this->points)),
          owned(
              BankInputs<S>::read_offsets("ray_offsets", ray_offsets, static_cast<int64_t>(rays.size()) - 1)),
          widths(plain("widths", widths_in, x.scalar_type())),
          target(plain("target", target_in, x.scalar_type())) {
        const int64_t count = static_cast<int64_t>(rays.size()) - 1;
        STD_TORCH_CHECK(this->net.out_dim == 4, "mclnf_fast: a field of rays must have out_dim 4, got ",
                        this->net.out_dim);
        STD_TORCH_CHECK(owned.size() == this->offsets.size(), "mclnf_fast: ray_offsets must be [M + 1]");
        for (size_t m = 0; m < owned.size(); ++m)
            STD_TORCH_CHECK(rays[owned[m]] == this->offsets[m], "mclnf_fast: rays must not cross modules");
        check_shape("widths", widths, {this->points});
        check_shape("target", target, {count, 3});
        if (weight_in) {
            weight = plain("ray_weight", *weight_in, x.scalar_type());
            check_shape("ray_weight", *weight, {count});
        }
        if (background_in) {
            background = plain("background", *background_in, x.scalar_type());
            check_shape("background", *background, {3});
        }
    }
};

std::tuple<Tensor, Tensors, Tensors> bank_ray_mse_fwd(
    Tensor x, Tensor offsets, Tensors w, Tensors b, Tensor rays, Tensor ray_offsets, Tensor widths,
    Tensor target, std::optional<Tensor> ray_weight, std::optional<Tensor> background,
    std::vector<int64_t> ints, std::vector<double> floats, bool last_behind, bool hold_last, bool exponential,
    bool density_first, double most_raw, bool mean, bool need_params) {
    return by_dtype(x, [&](auto s) -> std::tuple<Tensor, Tensors, Tensors> {
        using S = decltype(s);
        const RayInputs<S> in(x, offsets, w, b, rays, ray_offsets, widths, target, ray_weight, background,
                              ints, floats);
        Stack<S> grads = need_params ? Stack<S>::empty(in.net, in.modules, in.x) : Stack<S>();
        const Plan plan = Plan::fixed(in.owned, kLeastRays);
        RunSums<S> sums(in.net, in.modules, plan, grads);
        std::vector<double> errors(plan.runs.size());
        Pixels<S> shading;
        shading.background = in.background ? data<S>(*in.background) : nullptr;
        shading.last_behind = last_behind;
        shading.hold_last = hold_last;
        shading.exponential = exponential;
        shading.density_row = density_first ? 0 : 3;
        shading.most = static_cast<S>(most_raw);
        using Place = typename RunSums<S>::Place;
        each_run(plan, [&, par = in.walk(plan), own = Place(sums), cuts = std::vector<int64_t>()](
                           int64_t r, int64_t then) mutable {
            const Run& run = plan.runs[r];
            const int64_t from = in.rays[run.begin], to = in.rays[run.end];
            cuts.clear();
            for (int64_t k = run.begin; k <= run.end; ++k) cuts.push_back(in.rays[k] - from);
            Pixels<S> pixels = shading;
            pixels.rays = cuts.data();
            pixels.count = run.end - run.begin;
            pixels.width = data<S>(in.widths) + from;
            pixels.target = data<S>(in.target) + 3 * run.begin;
            pixels.weight = in.weight ? data<S>(*in.weight) + run.begin : nullptr;
            Start<S> start;
            start.pixels = &pixels;
            start.scale =
                mean ? S(1) / static_cast<S>(3 * (in.owned[run.module + 1] - in.owned[run.module])) : S(1);
            start.error = &errors[r];
            bank_table<S>().backward(in.net, par.at(r, then), in.points_at(from), to - from, start, nullptr,
                                     own.of(run, streams(in)), {});
        });
        sums.finish();
        Tensor loss = torch::stable::new_empty(in.x, {in.modules});
        std::vector<double> total(in.modules, 0.0);
        for (size_t r = 0; r < errors.size(); ++r) total[plan.runs[r].module] += errors[r];
        for (int64_t m = 0; m < in.modules; ++m) mutable_data<S>(loss)[m] = static_cast<S>(total[m]);
        return {loss, grads.weight, grads.bias};
    });
}

}  // namespace

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("bank_ray_mse_fwd", TORCH_BOX(&mclnf::bank_ray_mse_fwd));
}

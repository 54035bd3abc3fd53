// The squared error of the pixels that a bank's rays are composited to, and its gradients in the sweep that
// evaluates it, on the CPU.
#include <torch/csrc/stable/library.h>

#include <optional>

#include "bank_inputs.h"

namespace mclnf {

namespace {

template <class S>
struct RayInputs : BankInputs<S> {
    std::vector<int64_t> rays, ray_offsets;  // the first point of each ray, the first ray of each module
    Tensor deltas, target;                   // sample spacing; pixels
    std::optional<Tensor> weight, background;

    RayInputs(const Tensor& x, const Tensor& offsets, const Tensors& w, const Tensors& b,
              const Tensor& rays_in, const Tensor& ray_offsets_in, const Tensor& deltas_in,
              const Tensor& target_in, const std::optional<Tensor>& weight_in,
              const std::optional<Tensor>& background_in, const std::vector<int64_t>& ints,
              const std::vector<double>& floats)
        : BankInputs<S>(x, offsets, w, b, ints, floats),
          rays(read_offsets("rays", rays_in, this->points)),
          ray_offsets(read_offsets("ray_offsets", ray_offsets_in, static_cast<int64_t>(rays.size()) - 1)),
          deltas(plain("widths", deltas_in, x.scalar_type())),
          target(plain("target", target_in, x.scalar_type())) {
        const int64_t count = static_cast<int64_t>(rays.size()) - 1;
        STD_TORCH_CHECK(this->net.out_dim == 4, "mclnf_fast: a field of rays must have out_dim 4, got ",
                        this->net.out_dim);
        STD_TORCH_CHECK(ray_offsets.size() == this->offsets.size(),
                        "mclnf_fast: ray_offsets must be [M + 1]");
        for (size_t m = 0; m < ray_offsets.size(); ++m)
            STD_TORCH_CHECK(rays[ray_offsets[m]] == this->offsets[m],
                            "mclnf_fast: rays must not cross modules");
        check_shape("widths", deltas, {this->points});
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

    int64_t rays_of(int64_t module) const { return ray_offsets[module + 1] - ray_offsets[module]; }
    // The shading with a run's pixels; run_rays: memory for the run's own first points.
    Pixels<S> pixels_of(const Run& run, const Pixels<S>& shading, std::vector<int64_t>& run_rays) const {
        const int64_t first = rays[run.begin];
        run_rays.clear();
        for (int64_t r = run.begin; r <= run.end; ++r) run_rays.push_back(rays[r] - first);
        Pixels<S> pixels = shading;
        pixels.rays = run_rays.data();
        pixels.count = run.size();
        pixels.deltas = data<S>(deltas) + first;
        pixels.target = data<S>(target) + 3 * run.begin;
        pixels.weight = weight ? data<S>(*weight) + run.begin : nullptr;
        return pixels;
    }
};

template <class S>
std::tuple<Tensor, Tensors, Tensors> sweep(const RayInputs<S>& in, const Pixels<S>& shading, bool mean,
                                           bool need_params) {
    ParameterTensors<S> grads = in.new_gradients(need_params);
    const Plan plan = Plan::fixed(in.ray_offsets, kMinRays);
    RunSums<S> sums(in.net, in.modules, plan, grads);
    std::vector<double> errors(plan.runs.size());
    using Output = typename RunSums<S>::Output;
    each_run(plan, [&, par = in.run_parameters(plan), output = Output(sums), rays = std::vector<int64_t>()](
                       int64_t r, int64_t then) mutable {
        const Run& run = plan.runs[r];
        const Pixels<S> pixels = in.pixels_of(run, shading, rays);
        OutputGradient<S> gradient;
        gradient.pixels = &pixels;
        gradient.scale = mean ? S(1) / static_cast<S>(3 * in.rays_of(run.module)) : S(1);
        BackwardResults<S> results;
        results.grads = output.of(run, in.streams_gradients());
        results.error = &errors[r];
        bank_table<S>().backward(in.net,
                                 in.module_points(par.at(r, then), in.rays[run.begin], in.rays[run.end]),
                                 gradient, results);
    });
    sums.finish();
    Tensor loss = fresh(in.x, {in.modules});
    add_errors(plan, errors, in.modules, mutable_data<S>(loss));
    return {loss, grads.weight, grads.bias};
}

std::tuple<Tensor, Tensors, Tensors> bank_ray_mse_fwd(
    Tensor x, Tensor offsets, Tensors w, Tensors b, Tensor rays, Tensor ray_offsets, Tensor deltas,
    Tensor target, std::optional<Tensor> ray_weight, std::optional<Tensor> background,
    std::vector<int64_t> ints, std::vector<double> floats, bool last_behind, bool hold_last, bool exponential,
    bool density_first, double max_raw_density, bool mean, bool need_params) {
    return by_dtype(x, [&](auto s) -> std::tuple<Tensor, Tensors, Tensors> {
        using S = decltype(s);
        const RayInputs<S> in(x, offsets, w, b, rays, ray_offsets, deltas, target, ray_weight, background,
                              ints, floats);
        Pixels<S> shading;
        shading.background = in.background ? data<S>(*in.background) : nullptr;
        shading.last_behind = last_behind;
        shading.hold_last = hold_last;
        shading.exponential = exponential;
        shading.density_row = density_first ? 0 : 3;
        shading.max_raw_density = static_cast<S>(max_raw_density);
        return sweep<S>(in, shading, mean, need_params);
    });
}

}  // namespace

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("bank_ray_mse_fwd", TORCH_BOX(&mclnf::bank_ray_mse_fwd));
}

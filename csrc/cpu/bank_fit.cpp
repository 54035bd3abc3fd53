// Many steps of many modules in one call on the CPU. A core takes a module for a slice of its steps:
// parameters, moments and gradients of a small field stay in the core's cache, and no thread waits for
// another between steps.
#include <torch/csrc/stable/library.h>

#include "fit_call.h"
#include "fit_run.h"

namespace mclnf {
namespace {

using FitResults = std::tuple<Tensor, Tensors, Tensor, Tensor>;

// x: a tensor of the samples. Each module has samples, n of them or none.
template <class S>
FitResults make_steps(const Net& net, const FitArguments& in, const Tensor& x,
                      std::vector<FitSamples<S>> samples, const FitRays<S>* rays,
                      const FitGuide<S>* guide = nullptr) {
    const ScalarType dtype = x.scalar_type();
    const int64_t modules = in.steps.numel();
    BankValues p("params", net, modules, dtype, in.params), m("exp_avg", net, modules, dtype, in.exp_avg),
        v("exp_avg_sq", net, modules, dtype, in.exp_avg_sq), f("fisher", net, modules, dtype, in.fisher),
        a("anchor", net, modules, dtype, in.anchor);
    STD_TORCH_CHECK(p.tensors.size() == 2 * net.layers.size(),
                    "bank_fit: params must hold two tensors a layer");
    STD_TORCH_CHECK(!in.adam || (!m.tensors.empty() && !v.tensors.empty()),
                    "bank_fit: Adam needs its moments");
    STD_TORCH_CHECK(in.lam == 0 || (!f.tensors.empty() && !a.tensors.empty()),
                    "bank_fit: a trust region needs fisher and anchor");

    STD_TORCH_CHECK(in.precision == kFp32, "bank_fit: the CPU's products are fp32 (or fp64) alone");
    check_written("steps", in.steps);
    Values clock({numbers("steps", in.steps, modules, ScalarType::Long)});
    const Tensor goals = numbers("goal", in.goal, modules, ScalarType::Long),
                 keys = numbers("module_numbers", in.module_numbers, modules, ScalarType::Long),
                 logs = numbers("log_at", in.log_at, -1, ScalarType::Long),
                 shots = numbers("snapshot_at", in.snapshot_at, -1, ScalarType::Long),
                 rate = numbers("rates", in.rates, -1, ScalarType::Double);
    const OptTensor stops = in.stop_loss
                                ? OptTensor(numbers("stop_loss", *in.stop_loss, modules, ScalarType::Double))
                                : OptTensor();
    const OptTensor given = contiguous_of("ids", in.ids);
    const OptTensor given_weight =
        in.ids_weight ? OptTensor(plain("ids_weight", *in.ids_weight, dtype)) : OptTensor();
    STD_TORCH_CHECK(!given_weight || (given && given_weight->numel() == given->numel()),
                    "bank_fit: ids_weight must be like ids");

    Tensor losses = torch::stable::new_empty(x, {logs.numel(), modules});
    Tensor ends = torch::stable::new_empty(goals, {modules}, ScalarType::Long);
    Tensor checked = torch::stable::new_empty(rate, {modules}, ScalarType::Double);
    constexpr S kNaN = std::numeric_limits<S>::quiet_NaN();
    std::fill_n(out_pointer<S>(losses), losses.numel(), kNaN);
    std::fill_n(out_pointer<double>(checked), modules, std::numeric_limits<double>::quiet_NaN());

    Fit<S> fit{net,
               {static_cast<DrawRule>(in.rule), in.batch, in.seed, in.task, in.sgd_steps, in.check_every,
                in.adam, in.frozen_layers, in.beta1, in.beta2, in.eps, in.lam, pointer<double>(rate)},
               std::move(samples),
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
               out_pointer<double>(checked),
               rays,
               guide};
    fit.first.assign(fit.steps, fit.steps + modules);
    for (size_t t = 0; t < p.tensors.size(); ++t) {
        const Layer& layer = net.layers[t / 2];
        const int64_t size = t % 2 == 0 ? layer.weights() : layer.out;
        fit.tensors.push_back({p.at<S>(t), in.adam ? m.at<S>(t) : nullptr, in.adam ? v.at<S>(t) : nullptr,
                               in.lam != 0 ? f.at<S>(t) : nullptr, in.lam != 0 ? a.at<S>(t) : nullptr, size});
    }
    for (int64_t i = 0; i < modules; ++i) fit.ends[i] = fit.goal[i] > fit.first[i] ? kFitSteps : kFitFrozen;
    check_calls(fit, given, rate.numel());
    // NaN stays for a module that does not come so far.
    Tensors snapshots;
    for (size_t s = 0; s < fit.snapshot_at.size(); ++s) {
        fit.snapshots.emplace_back();
        for (const Tensor& like : in.params) {
            std::vector<int64_t> shape;
            for (int64_t d = 0; d < like.dim(); ++d) shape.push_back(like.size(d));
            snapshots.push_back(torch::stable::new_empty(x, shape));
            S* values = out_pointer<S>(snapshots.back());
            std::fill_n(values, like.numel(), kNaN);
            fit.snapshots.back().push_back(values);
        }
    }
    run_fit(fit);
    clock.put_back();
    for (BankValues* written : {&p, &m, &v}) written->put_back();
    return {losses, snapshots, ends, checked};
}

// The first sample of each module, and their number behind them.
std::vector<int64_t> begins_of(const Tensor& offsets, int64_t samples, int64_t modules) {
    std::vector<int64_t> begins = read_offsets("offsets", offsets, samples);
    STD_TORCH_CHECK(static_cast<int64_t>(begins.size()) == modules + 1, "bank_fit: offsets must be [M + 1]");
    return begins;
}

// Points as samples, and the tensors that hold them. Without offsets all modules share the coordinates.
template <class S>
struct PointSamples {
    Tensor x, target;
    OptTensor weight;
    std::vector<int64_t> begins;  // of each module's points; none: shared
    std::vector<FitSamples<S>> samples;

    PointSamples(const Net& net, int64_t modules, const Tensor& x_in, const OptTensor& offsets,
                 const Tensor& target_in, const OptTensor& weight_in)
        : x(plain("x", x_in, x_in.scalar_type())),
          target(plain("target", target_in, x_in.scalar_type())),
          weight(weight_in ? OptTensor(plain("weight", *weight_in, x_in.scalar_type())) : OptTensor()) {
        STD_TORCH_CHECK(x.dim() == 2 && x.size(1) == net.in_dim, "bank_fit: x must be [N, in_dim]");
        const int64_t points = x.size(0);
        if (offsets) begins = begins_of(*offsets, points, modules);
        const int64_t rows = offsets ? points : modules * points;
        STD_TORCH_CHECK(target.numel() == rows * net.out_dim && (!weight || weight->numel() == rows),
                        "bank_fit: target and weight must have a row per sample");
        for (int64_t i = 0; i < modules; ++i) {
            const int64_t row = offsets ? begins[i] : i * points, n = offsets ? begins[i + 1] - row : points;
            samples.push_back({data<S>(x) + (offsets ? row : 0) * net.in_dim,
                               data<S>(target) + row * net.out_dim, weight ? data<S>(*weight) + row : nullptr,
                               n});
        }
    }
};

FitResults bank_fit(Tensor x, OptTensor offsets, Tensor target, OptTensor weight, MCLNF_FIT_PARAMETERS,
                    std::vector<int64_t> net_ints, std::vector<double> net_floats) {
    const Net net(net_ints, net_floats);
    const int64_t modules = steps.numel();
    const FitArguments arguments{MCLNF_FIT_ARGUMENTS};
    return by_dtype(x, [&](auto zero) -> FitResults {
        using S = decltype(zero);
        const PointSamples<S> points(net, modules, x, offsets, target, weight);
        return make_steps<S>(net, arguments, points.x, points.samples, nullptr);
    });
}

// The rule `guided`: `curve` in the layout of x's samples; scores and window float64 [M, blocks], batches
// int64 [M] and the running Fisher, which are changed in place.
FitResults bank_guided_fit(Tensor x, OptTensor offsets, Tensor target, OptTensor weight, OptTensor curve,
                           Tensor scores, Tensor window, Tensor batches, Tensors running, double mix,
                           double smooth, int64_t block, int64_t refresh, double decay, double damping,
                           MCLNF_FIT_PARAMETERS, std::vector<int64_t> net_ints,
                           std::vector<double> net_floats) {
    const Net net(net_ints, net_floats);
    const int64_t modules = steps.numel();
    const FitArguments arguments{MCLNF_FIT_ARGUMENTS};
    return by_dtype(x, [&](auto zero) -> FitResults {
        using S = decltype(zero);
        const PointSamples<S> points(net, modules, x, offsets, target, weight);
        GuideTensors<S> tensors(net, modules, x.scalar_type(), {curve, scores, window, batches, running});
        const FitGuide<S> guide =
            tensors.guide({mix, smooth, decay, damping, block, refresh}, points.begins, points.samples);
        const FitResults results = make_steps<S>(net, arguments, points.x, points.samples, nullptr, &guide);
        tensors.put_back();
        return results;
    });
}

FitResults bank_ray_fit(Tensor origins, Tensor directions, OptTensor view, Tensor offsets, Tensor colors,
                        OptTensor weight, OptTensor background, int64_t bins, double near, double far,
                        bool jitter, bool last_behind, bool hold_last, bool exponential, bool density_first,
                        double max_raw_density, MCLNF_FIT_PARAMETERS, std::vector<int64_t> net_ints,
                        std::vector<double> net_floats) {
    const Net net(net_ints, net_floats);
    const ScalarType dtype = origins.scalar_type();
    const int64_t modules = steps.numel(), rays = offsets.numel() ? colors.size(0) : 0;
    const FitArguments arguments{MCLNF_FIT_ARGUMENTS};
    return by_dtype(origins, [&](auto zero) -> FitResults {
        using S = decltype(zero);
        origins = plain("origins", origins, dtype);
        directions = plain("directions", directions, dtype);
        colors = plain("colors", colors, dtype);
        for (OptTensor* t : {&view, &weight, &background})
            if (*t) *t = plain("view, weight and background", **t, dtype);
        const int64_t extra = net.in_dim - 3;
        STD_TORCH_CHECK(net.out_dim == 4 && extra >= 0 && (extra == 0 || view),
                        "bank_fit: a field of rays must have out_dim 4, and view with in_dim above 3");
        for (const Tensor* t : {&origins, &directions, &colors})
            STD_TORCH_CHECK(t->numel() == 3 * rays,
                            "bank_fit: origins, directions and colors must be [R, 3]");
        STD_TORCH_CHECK(!extra || view->numel() == extra * rays, "bank_fit: view must be [R, in_dim - 3]");
        STD_TORCH_CHECK(!weight || weight->numel() == rays, "bank_fit: weight must be [R]");
        STD_TORCH_CHECK(!background || background->numel() == 3, "bank_fit: background must be [3]");
        STD_TORCH_CHECK(bins >= 1 && bins <= kMaxBins, "bank_fit: bins out of range");
        const std::vector<int64_t> begins = begins_of(offsets, rays, modules);
        std::vector<FitSamples<S>> samples;
        for (int64_t i = 0; i < modules; ++i) {
            const int64_t row = begins[i];
            samples.push_back({data<S>(origins) + 3 * row, data<S>(colors) + 3 * row,
                               weight ? data<S>(*weight) + row : nullptr, begins[i + 1] - row,
                               data<S>(directions) + 3 * row,
                               extra ? data<S>(*view) + extra * row : nullptr});
        }
        FitRays<S> cut{bins, static_cast<S>(near), static_cast<S>(far), jitter, {}};
        cut.shading.background = pointer<S>(background);
        cut.shading.last_behind = last_behind;
        cut.shading.hold_last = hold_last;
        cut.shading.exponential = exponential;
        cut.shading.density_row = density_first ? 0 : 3;
        cut.shading.max_raw_density = static_cast<S>(max_raw_density);
        return make_steps<S>(net, arguments, origins, std::move(samples), &cut);
    });
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("bank_fit", TORCH_BOX(&mclnf::bank_fit));
    m.impl("bank_ray_fit", TORCH_BOX(&mclnf::bank_ray_fit));
    m.impl("bank_guided_fit", TORCH_BOX(&mclnf::bank_guided_fit));
}

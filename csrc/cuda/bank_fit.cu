// Many steps of many modules in one call on CUDA. A block takes a module for all of its steps: parameters,
// gradients and the activations of a tile of points stay in the multiprocessor's memory (fit/plan.h), and
// blocks do not wait for each other, unless there are so few modules that several share one (fit/group.h).
//
// Values of tensors (goals, offsets, ids) are on the device and are not read here: a module whose numbers are
// out of range ends as one that diverged, before the step that would have used them.
#include <cmath>
#include <tuple>
#include <vector>

#include "fit/arguments.h"
#include "fit/guide_arguments.h"
#include "fit/kernel.h"
#include "fit/network.h"

namespace mclnf {

// In files of their own.
#define MCLNF_FIT(S, kPrecision, kRays, kGuided) \
    extern template void launch_fit<S, kPrecision, kRays, kGuided>(FitCall<S>&, const Tensor&, cudaStream_t);
MCLNF_FIT(float, kFp32, false, true)
MCLNF_FIT(double, kFp32, false, true)
MCLNF_FIT(float, kFp32, true, false)
MCLNF_FIT(double, kFp32, true, false)
MCLNF_FIT(float, kTf32, false, false)
MCLNF_FIT(float, kTf32, true, false)
MCLNF_FIT(float, kBf16, false, false)
MCLNF_FIT(float, kBf16, true, false)
MCLNF_FIT(float, kFp16, false, false)
MCLNF_FIT(float, kFp16, true, false)
#undef MCLNF_FIT

namespace {

// The factors of all steps of a call: they depend on the step's number alone, and in double take a thread as
// long as a step takes a block.
template <typename S>
__global__ void __launch_bounds__(kThreads)
    rate_kernel(const double* lr, int64_t count, int64_t sgd_steps, bool adam, double beta1, double beta2,
                double eps, FitRate<S>* rates) {
    const int64_t k = this_thread();
    if (k >= count) return;
    const StepFactors<S> factors = step_factors<S>(
        adam && k >= sgd_steps, static_cast<double>(k - sgd_steps + 1), lr[k], beta1, beta2, eps, 0.0);
    rates[k] = {factors.rate, factors.floor};
}

using FitResults = std::tuple<Tensor, Tensors, Tensor, Tensor>;

// The samples, checked and contiguous: points, or rays with origins in x and colors in target.
struct FitSource {
    Tensor x, target;
    OptTensor offsets, weight, directions, view, background;
    FitRayCall<double> rays{};

    template <typename S>
    void put(FitCall<S>& call) const {
        call.rows = x.size(0);
        call.offsets = pointer<int64_t>(offsets);
        call.x = pointer<S>(x);
        call.target = pointer<S>(target);
        call.weight = pointer<S>(weight);
        call.rays = {pointer<S>(directions),
                     pointer<S>(view),
                     pointer<S>(background),
                     rays.bins,
                     static_cast<S>(rays.near),
                     static_cast<S>(rays.far),
                     rays.jitter,
                     rays.last_behind,
                     rays.hold_last,
                     rays.exponential,
                     rays.density_row,
                     static_cast<S>(rays.max_raw_density)};
    }
};

template <typename S, bool kRays>
void launch_by_precision(FitCall<S>& call, int64_t precision, const Tensor& like, cudaStream_t stream) {
    if constexpr (sizeof(S) == 4) switch (precision) {
            case kTf32:
                return launch_fit<S, kTf32, kRays, false>(call, like, stream);
            case kBf16:
                return launch_fit<S, kBf16, kRays, false>(call, like, stream);
            case kFp16:
                return launch_fit<S, kFp16, kRays, false>(call, like, stream);
        }
    launch_fit<S, kFp32, kRays, false>(call, like, stream);
}

// guide: null for another rule.
FitResults make_steps(const Net& net, const FitChecks& check, const FitSource& source, const FitArguments& in,
                      FitGuideTensors* guide = nullptr) {
    const Tensor& x = source.x;
    const ScalarType dtype = x.scalar_type();
    const int64_t modules = in.modules();
    Values p = check.bank("params", in.params, true, true),
           m = check.bank("exp_avg", in.exp_avg, in.adam, true),
           v = check.bank("exp_avg_sq", in.exp_avg_sq, in.adam, true),
           f = check.bank("fisher", in.fisher, in.lam != 0, false),
           a = check.bank("anchor", in.anchor, in.lam != 0, false);
    check_written("steps", in.steps);
    check.checked("steps", in.steps, ScalarType::Long, {modules});
    Values clock({in.steps});
    const Tensor goal = check.checked("goal", in.goal, ScalarType::Long, {modules}),
                 module_numbers =
                     check.checked("module_numbers", in.module_numbers, ScalarType::Long, {modules}),
                 log_at = check.checked("log_at", in.log_at, ScalarType::Long, {-1}),
                 snapshot_at = check.checked("snapshot_at", in.snapshot_at, ScalarType::Long, {-1}),
                 rates = check.checked("rates", in.rates, ScalarType::Double, {-1});
    const OptTensor stop_loss = check.checked("stop_loss", in.stop_loss, ScalarType::Double, {modules}),
                    ids = check.checked("ids", in.ids, ScalarType::Long, {-1, modules, in.batch}),
                    ids_weight = check.checked("ids_weight", in.ids_weight, dtype,
                                               {ids ? ids->size(0) : 0, modules, in.batch});

    const Tensor losses = torch::stable::new_empty(x, {log_at.numel(), modules});
    const Tensor ends = torch::stable::new_empty(goal, {modules}, ScalarType::Long);
    const Tensor checked = torch::stable::new_empty(rates, {modules}, ScalarType::Double);
    Tensors snapshots;
    for (int64_t s = 0; s < snapshot_at.numel(); ++s)
        for (const Tensor& like : in.params) {
            std::vector<int64_t> shape;
            for (int64_t d = 0; d < like.dim(); ++d) shape.push_back(like.size(d));
            snapshots.push_back(torch::stable::new_empty(x, shape));
        }
    if (modules == 0) return {losses, snapshots, ends, checked};

    const cudaStream_t stream = current_stream(x);
    const auto run = [&](auto zero) {
        using S = decltype(zero);
        FitCall<S> call{};
        call.net = fit_net(net, static_cast<int>(in.precision), source.rays.bins > 0);
        source.put(call);
        const std::vector<FitFeature> features = fit_features(net);
        const Tensor feature_list = on_device(features, x, stream);
        std::vector<S*> copies;
        for (const Tensor& t : snapshots) copies.push_back(out_pointer<S>(t));
        const Tensor copy_list = on_device(copies, x, stream);
        const Tensor rate_list = torch::stable::new_empty(x, {rates.numel(), 2});
        if (rates.numel() > 0) {
            launch(rate_kernel<S>, blocks_for(rates.numel()), kThreads, 0, stream, pointer<double>(rates),
                   rates.numel(), in.sgd_steps, in.adam, in.beta1, in.beta2, in.eps,
                   out_pointer<FitRate<S>>(rate_list));
            check_cuda(cudaGetLastError(), "bank_fit: rates");
        }
        // Of rays the points of a step are many more than its samples.
        const int64_t points = in.rule == kDrawWhole || call.rays.bins > 0 ? 0 : in.batch;
        call.plan = fit_plan(fit_shape(call.net, sizeof(S), in.adam, points), device_limits());
        STD_TORCH_CHECK(call.plan.blocks > 0, "bank_fit: the device has too little shared memory");
        call.factors = step_factors<S>(false, 1, 0, in.beta1, in.beta2, in.eps, in.lam);
        call.modules = modules;
        call.features = pointer<FitFeature>(feature_list);
        call.feature_count = static_cast<int>(features.size());
        for (size_t t = 0; t < in.params.size(); ++t)
            call.tensors[t] = {p.write<S>(t), m.write<S>(t), v.write<S>(t), f.read<S>(t), a.read<S>(t)};
        call.steps = clock.write<int64_t>(0);
        call.ends = out_pointer<int64_t>(ends);
        call.goal = pointer<int64_t>(goal);
        call.numbers = pointer<int64_t>(module_numbers);
        call.rates = pointer<FitRate<S>>(rate_list);
        call.rate_count = rates.numel();
        call.sgd_steps = in.sgd_steps;
        call.check_every = in.check_every;
        call.rule = static_cast<int>(in.rule);
        call.batch = in.batch;
        call.seed = in.seed;
        call.task = in.task;
        call.ids = pointer<int64_t>(ids);
        call.id_rows = ids ? ids->size(0) : 0;
        call.ids_weight = pointer<S>(ids_weight);
        call.log_at = pointer<int64_t>(log_at);
        call.snapshot_at = pointer<int64_t>(snapshot_at);
        call.logs = log_at.numel();
        call.snapshots = static_cast<int>(snapshot_at.numel());
        call.losses = out_pointer<S>(losses);
        call.copies = pointer<S*>(copy_list);
        call.stop_loss = pointer<double>(stop_loss);
        call.checked = out_pointer<double>(checked);
        call.adam = in.adam;
        call.frozen = 2 * static_cast<int>(in.frozen_layers);
        if (guide) {
            const std::vector<FitGuideCall<S>> options{guide->call(call)};
            const Tensor on_call = on_device(options, x, stream);
            call.guide = pointer<FitGuideCall<S>>(on_call);
            call.plan.workspace += options[0].plan.bytes;
            launch_fit<S, kFp32, false, true>(call, x, stream);
        } else if (call.rays.bins > 0)
            launch_by_precision<S, true>(call, in.precision, x, stream);
        else
            launch_by_precision<S, false>(call, in.precision, x, stream);
    };
    dtype == ScalarType::Double ? run(double()) : run(float());
    clock.put_back();
    if (guide) guide->put_back();
    for (Values* written : {&p, &m, &v}) written->put_back();
    return {losses, snapshots, ends, checked};
}

// Points as samples. Without offsets all modules share the coordinates.
FitSource points_of(const FitChecks& check, const Net& net, int64_t modules, const Tensor& x,
                    const OptTensor& offsets, const Tensor& target, const OptTensor& weight) {
    const ScalarType dtype = x.scalar_type();
    FitSource source{check.checked("x", x, dtype, {-1, net.in_dim}), target};
    std::vector<int64_t> rows =
        offsets ? std::vector<int64_t>{x.size(0)} : std::vector<int64_t>{modules, x.size(0)};
    source.weight = check.checked("weight", weight, dtype, rows);
    rows.push_back(net.out_dim);
    source.target = check.checked("target", target, dtype, rows);
    source.offsets = check.checked("offsets", offsets, ScalarType::Long, {modules + 1});
    return source;
}

FitResults bank_fit(Tensor x, OptTensor offsets, Tensor target, OptTensor weight, MCLNF_FIT_PARAMETERS,
                    std::vector<int64_t> net_ints, std::vector<double> net_floats) {
    const DeviceOf guard(x);
    const Net net(net_ints, net_floats);
    const FitArguments in{MCLNF_FIT_ARGUMENTS};
    check_numbers(in, net, x.scalar_type());
    const FitChecks check(x, net, in.modules());
    return make_steps(net, check, points_of(check, net, in.modules(), x, offsets, target, weight), in);
}

FitResults bank_guided_fit(Tensor x, OptTensor offsets, Tensor target, OptTensor weight, OptTensor curve,
                           Tensor scores, Tensor window, Tensor batches, Tensors running, double mix,
                           double smooth, int64_t block, int64_t refresh, double decay, double damping,
                           MCLNF_FIT_PARAMETERS, std::vector<int64_t> net_ints,
                           std::vector<double> net_floats) {
    const DeviceOf guard(x);
    const Net net(net_ints, net_floats);
    const FitArguments in{MCLNF_FIT_ARGUMENTS};
    check_numbers(in, net, x.scalar_type(), true);
    const int64_t modules = in.modules();
    const FitChecks check(x, net, modules);
    const FitSource source = points_of(check, net, modules, x, offsets, target, weight);
    FitGuideTensors guide(
        check, {mix, smooth, decay, damping, block, refresh}, modules,
        {check.checked("curve", curve, ScalarType::Long, {x.size(0)}), scores, window, batches, running});
    return make_steps(net, check, source, in, &guide);
}

FitResults bank_ray_fit(Tensor origins, Tensor directions, OptTensor view, Tensor offsets, Tensor colors,
                        OptTensor weight, OptTensor background, int64_t bins, double near, double far,
                        bool jitter, bool last_behind, bool hold_last, bool exponential, bool density_first,
                        double max_raw_density, MCLNF_FIT_PARAMETERS, std::vector<int64_t> net_ints,
                        std::vector<double> net_floats) {
    const DeviceOf guard(origins);
    const Net net(net_ints, net_floats);
    const FitArguments in{MCLNF_FIT_ARGUMENTS};
    const ScalarType dtype = origins.scalar_type();
    check_numbers(in, net, dtype);
    const int64_t extra = net.in_dim - 3;
    STD_TORCH_CHECK(net.out_dim == 4 && extra >= 0 && (extra == 0 || view),
                    "bank_fit: a field of rays must have out_dim 4, and view with in_dim above 3");
    STD_TORCH_CHECK(bins >= 1 && bins <= kMaxBins, "bank_fit: bins out of range");
    const FitChecks check(origins, net, in.modules());
    FitSource source{check.checked("origins", origins, dtype, {-1, 3}), colors};
    const int64_t rays = source.x.size(0);
    source.directions = check.checked("directions", directions, dtype, {rays, 3});
    source.target = check.checked("colors", colors, dtype, {rays, 3});
    if (extra) source.view = check.checked("view", view, dtype, {rays, extra});
    source.weight = check.checked("weight", weight, dtype, {rays});
    source.background = check.checked("background", background, dtype, {3});
    source.offsets = check.checked("offsets", offsets, ScalarType::Long, {in.modules() + 1});
    source.rays.bins = static_cast<int>(bins);
    source.rays.near = near;
    source.rays.far = far;
    source.rays.jitter = jitter;
    source.rays.last_behind = last_behind;
    source.rays.hold_last = hold_last;
    source.rays.exponential = exponential;
    source.rays.density_row = density_first ? 0 : 3;
    source.rays.max_raw_density = max_raw_density;
    return make_steps(net, check, source, in);
}

}  // namespace
}  // namespace mclnf

MCLNF_CUDA_OPS(m) {
    m.impl("bank_fit", TORCH_BOX(&mclnf::bank_fit));
    m.impl("bank_guided_fit", TORCH_BOX(&mclnf::bank_guided_fit));
    m.impl("bank_ray_fit", TORCH_BOX(&mclnf::bank_ray_fit));
}

// Many steps of many modules in one call on CUDA. A block takes a module for all of its steps: parameters,
// gradients and the activations of a tile of points stay in the multiprocessor's memory (fit/plan.h), and
// blocks do not wait for each other. There is no version that spreads one large module over many blocks.
//
// Values of tensors (goals, offsets, ids) are on the device and are not read here: a module whose numbers are
// out of range ends as one that diverged, before the step that would have used them.
#include <algorithm>
#include <cmath>
#include <vector>

#include "bank_step_tensors.h"
#include "fit/network.h"
#include "fit/steps.h"

namespace mclnf {
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

// Blocks take the next module when they are done with one: who takes which does not show in what it learns.
template <typename S, bool kNear>
__global__ void __launch_bounds__(kFitMostThreads, 1) fit_kernel(const __grid_constant__ FitCall<S> call) {
    const FitMemory<S> memory = fit_memory<S, kNear>(call);
    const int numbers = call.net.rows() * (call.plan.points + 4);
    for (int i = static_cast<int>(threadIdx.x); i < numbers; i += FitTeam::all().threads)
        memory.acts[i] = S(0);
    for (int i = static_cast<int>(threadIdx.x); i < call.net.values; i += FitTeam::all().threads)
        memory.params[i] = S(0);
    FitSteps<S> steps(call, memory);
    for (;;) {
        __syncthreads();  // of the zeros, and of who reads the last module's number
        if (threadIdx.x == 0) *memory.module = atomicAdd(call.next, 1);
        __syncthreads();
        const int64_t module = *memory.module;
        if (module >= call.modules) break;
        steps.run(module);
    }
}

// Arguments of the op, checked as far as that goes without waiting for the device.
class FitArguments {
  public:
    FitArguments(const Tensor& x, const Net& net, int64_t modules) : x_(x), net_(net), modules_(modules) {}

    Tensor checked(const char* name, const Tensor& t, ScalarType dtype, std::vector<int64_t> shape) const {
        STD_TORCH_CHECK(t.is_cpu() == x_.is_cpu() && t.get_device_index() == x_.get_device_index() &&
                            t.scalar_type() == dtype,
                        "bank_fit: ", name, " must be on the device of x, with its dtype");
        bool same = t.dim() == static_cast<int64_t>(shape.size());
        for (int64_t d = 0; same && d < t.dim(); ++d) same = shape[d] < 0 || t.size(d) == shape[d];
        STD_TORCH_CHECK(same, "bank_fit: ", name, " has a wrong shape");
        return contiguous_of(name, t);
    }
    OptTensor checked(const char* name, const OptTensor& t, ScalarType dtype,
                      std::vector<int64_t> shape) const {
        return t ? OptTensor(checked(name, *t, dtype, std::move(shape))) : OptTensor();
    }
    // Tensors like the parameters; those that are changed must not be expanded.
    Values bank(const char* name, const Tensors& list, bool needed, bool changed) const {
        if (!needed) return Values({});
        STD_TORCH_CHECK(list.size() == 2 * net_.layers.size(), "bank_fit: ", name,
                        " must hold two tensors a layer");
        for (size_t t = 0; t < list.size(); ++t) {
            const Layer& layer = net_.layers[t / 2];
            const std::vector<int64_t> shape = t % 2 == 0
                                                   ? std::vector<int64_t>{modules_, layer.in, layer.out}
                                                   : std::vector<int64_t>{modules_, layer.out};
            checked(name, list[t], x_.scalar_type(), shape);
            if (changed) check_written(name, list[t]);
        }
        return Values(list);
    }

  private:
    const Tensor& x_;
    const Net& net_;
    int64_t modules_;
};

int attribute(cudaDeviceAttr which) {
    int device = 0, value = 0;
    check_cuda(cudaGetDevice(&device), "bank_fit");
    check_cuda(cudaDeviceGetAttribute(&value, which, device), "bank_fit");
    return value;
}

FitLimits device_limits() {
    return {attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
            attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)};
}

// A list on the host as a tensor of bytes on the device.
template <typename T>
Tensor on_device(const std::vector<T>& list, const Tensor& like, cudaStream_t stream) {
    const int64_t bytes = static_cast<int64_t>(list.size() * sizeof(T));
    const Tensor to = torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
    if (bytes > 0)
        check_cuda(cudaMemcpyAsync(out_pointer<unsigned char>(to), list.data(), bytes, cudaMemcpyHostToDevice,
                                   stream),
                   "bank_fit");
    return to;
}

template <typename S>
void launch_fit(FitCall<S>& call, const Tensor& like, cudaStream_t stream) {
    const FitPlan& plan = call.plan;
    const int64_t blocks = std::min<int64_t>(
        call.modules, static_cast<int64_t>(attribute(cudaDevAttrMultiProcessorCount)) * plan.blocks);
    const Tensor workspace = torch::stable::new_empty(like, {blocks * plan.workspace}, ScalarType::Byte);
    const Tensor next = torch::stable::new_zeros(like, {1}, ScalarType::Int);
    call.workspace = out_pointer<unsigned char>(workspace);
    call.next = out_pointer<int>(next);
    auto kernel = fit_kernel<S, false>;
    // Of float64 the general one alone: a kernel takes the compiler ten seconds per architecture.
    if constexpr (sizeof(S) == 4)
        if (plan.near()) kernel = fit_kernel<S, true>;
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(plan.shared)),
               "bank_fit");
    launch(kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(plan.threads),
           static_cast<size_t>(plan.shared), stream, call);
    check_cuda(cudaGetLastError(), "bank_fit");
}

using FitResults = std::tuple<Tensor, Tensors, Tensor, Tensor>;

FitResults bank_fit(Tensor x, OptTensor offsets, Tensor target, OptTensor weight, Tensors params,
                    Tensors exp_avg, Tensors exp_avg_sq, Tensor steps, Tensor goal, Tensor rates,
                    int64_t sgd_steps, bool adam, int64_t frozen_layers, double beta1, double beta2,
                    double eps, double lam, Tensors fisher, Tensors anchor, int64_t rule, int64_t batch,
                    OptTensor ids, OptTensor ids_weight, int64_t seed, int64_t task, Tensor module_numbers,
                    Tensor log_at, Tensor snapshot_at, OptTensor stop_loss, int64_t check_every,
                    std::vector<int64_t> net_ints, std::vector<double> net_floats) {
    const DeviceOf guard(x);
    const Net net(net_ints, net_floats);
    const ScalarType dtype = x.scalar_type();
    const int64_t modules = steps.numel();
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "bank_fit: x must be float32 or float64");
    STD_TORCH_CHECK(modules <= 0x3fffffff, "bank_fit: too many modules for one launch");
    STD_TORCH_CHECK(rule >= kDrawUniform && rule <= kDrawGiven, "bank_fit: unknown rule");
    STD_TORCH_CHECK(rule == kDrawWhole || (batch >= 1 && batch <= int64_t(1) << 31),
                    "bank_fit: batch out of range");
    STD_TORCH_CHECK(task >= 0 && task <= kMaxDrawTask, "bank_fit: task out of range");
    STD_TORCH_CHECK(sgd_steps >= 0 && check_every >= 1, "bank_fit: sgd_steps or check_every out of range");
    STD_TORCH_CHECK(frozen_layers >= 0 && frozen_layers < static_cast<int64_t>(net.layers.size()),
                    "bank_fit: frozen_layers out of range");
    const FitArguments in(x, net, modules);
    x = in.checked("x", x, dtype, {-1, net.in_dim});
    const int64_t points = x.size(0);
    // Without offsets all modules share the coordinates.
    std::vector<int64_t> rows =
        offsets ? std::vector<int64_t>{points} : std::vector<int64_t>{modules, points};
    weight = in.checked("weight", weight, dtype, rows);
    rows.push_back(net.out_dim);
    target = in.checked("target", target, dtype, rows);
    offsets = in.checked("offsets", offsets, ScalarType::Long, {modules + 1});
    Values p = in.bank("params", params, true, true), m = in.bank("exp_avg", exp_avg, adam, true),
           v = in.bank("exp_avg_sq", exp_avg_sq, adam, true), f = in.bank("fisher", fisher, lam != 0, false),
           a = in.bank("anchor", anchor, lam != 0, false);
    check_written("steps", steps);
    in.checked("steps", steps, ScalarType::Long, {modules});
    Values clock({steps});
    goal = in.checked("goal", goal, ScalarType::Long, {modules});
    module_numbers = in.checked("module_numbers", module_numbers, ScalarType::Long, {modules});
    log_at = in.checked("log_at", log_at, ScalarType::Long, {-1});
    snapshot_at = in.checked("snapshot_at", snapshot_at, ScalarType::Long, {-1});
    rates = in.checked("rates", rates, ScalarType::Double, {-1});
    stop_loss = in.checked("stop_loss", stop_loss, ScalarType::Double, {modules});
    STD_TORCH_CHECK(rule != kDrawGiven || ids, "bank_fit: the rule `given` needs ids");
    ids = in.checked("ids", ids, ScalarType::Long, {-1, modules, batch});
    ids_weight = in.checked("ids_weight", ids_weight, dtype, {ids ? ids->size(0) : 0, modules, batch});

    const Tensor losses = torch::stable::new_empty(x, {log_at.numel(), modules});
    const Tensor ends = torch::stable::new_empty(goal, {modules}, ScalarType::Long);
    const Tensor checked = torch::stable::new_empty(rates, {modules}, ScalarType::Double);
    Tensors snapshots;
    for (int64_t s = 0; s < snapshot_at.numel(); ++s)
        for (const Tensor& like : params) {
            std::vector<int64_t> shape;
            for (int64_t d = 0; d < like.dim(); ++d) shape.push_back(like.size(d));
            snapshots.push_back(torch::stable::new_empty(x, shape));
        }
    if (modules == 0) return {losses, snapshots, ends, checked};

    const cudaStream_t stream = current_stream(x);
    const auto run = [&](auto zero) {
        using S = decltype(zero);
        FitCall<S> call{};
        call.net = fit_net(net);
        const std::vector<FitFeature> features = fit_features(net);
        const Tensor feature_list = on_device(features, x, stream);
        std::vector<S*> copies;
        for (const Tensor& t : snapshots) copies.push_back(out_pointer<S>(t));
        const Tensor copy_list = on_device(copies, x, stream);
        const Tensor rate_list = torch::stable::new_empty(x, {rates.numel(), 2});
        if (rates.numel() > 0) {
            launch(rate_kernel<S>, blocks_for(rates.numel()), kThreads, 0, stream, pointer<double>(rates),
                   rates.numel(), sgd_steps, adam, beta1, beta2, eps, out_pointer<FitRate<S>>(rate_list));
            check_cuda(cudaGetLastError(), "bank_fit: rates");
        }
        call.plan =
            fit_plan(fit_shape(call.net, sizeof(S), adam, rule == kDrawWhole ? 0 : batch), device_limits());
        STD_TORCH_CHECK(call.plan.blocks > 0, "bank_fit: the device has too little shared memory");
        call.factors = step_factors<S>(false, 1, 0, beta1, beta2, eps, lam);
        call.modules = modules;
        call.rows = points;
        call.offsets = pointer<int64_t>(offsets);
        call.x = pointer<S>(x);
        call.target = pointer<S>(target);
        call.weight = pointer<S>(weight);
        call.features = pointer<FitFeature>(feature_list);
        call.feature_count = static_cast<int>(features.size());
        for (size_t t = 0; t < params.size(); ++t)
            call.tensors[t] = {p.write<S>(t), m.write<S>(t), v.write<S>(t), f.read<S>(t), a.read<S>(t)};
        call.steps = clock.write<int64_t>(0);
        call.ends = out_pointer<int64_t>(ends);
        call.goal = pointer<int64_t>(goal);
        call.numbers = pointer<int64_t>(module_numbers);
        call.rates = pointer<FitRate<S>>(rate_list);
        call.rate_count = rates.numel();
        call.sgd_steps = sgd_steps;
        call.check_every = check_every;
        call.rule = static_cast<int>(rule);
        call.batch = batch;
        call.seed = seed;
        call.task = task;
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
        call.adam = adam;
        call.frozen = 2 * static_cast<int>(frozen_layers);
        launch_fit(call, x, stream);
    };
    dtype == ScalarType::Double ? run(double()) : run(float());
    clock.put_back();
    for (Values* written : {&p, &m, &v}) written->put_back();
    return {losses, snapshots, ends, checked};
}

}  // namespace
}  // namespace mclnf

MCLNF_CUDA_OPS(m) { m.impl("bank_fit", TORCH_BOX(&mclnf::bank_fit)); }

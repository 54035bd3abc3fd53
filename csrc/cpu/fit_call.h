// The arguments of the fits, read and checked.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "bank_step_tensors.h"
#include "fit_module.h"

namespace mclnf {

// What `bank_fit` and `bank_ray_fit` take beside the samples.
struct FitArguments {
    const Tensors &params, &exp_avg, &exp_avg_sq;
    const Tensor &steps, &goal, &rates;
    int64_t sgd_steps;
    bool adam;
    int64_t frozen_layers;
    double beta1, beta2, eps, lam;
    const Tensors &fisher, &anchor;
    int64_t rule, batch;
    const OptTensor &ids, &ids_weight;
    int64_t seed, task;
    const Tensor &module_numbers, &log_at, &snapshot_at;
    const OptTensor& stop_loss;
    int64_t check_every, precision;
};

// A list of int64 or float64 numbers, contiguous on the CPU.
inline Tensor numbers(const char* name, const Tensor& t, int64_t count, ScalarType dtype) {
    STD_TORCH_CHECK(
        t.is_cpu() && t.scalar_type() == dtype && t.dim() == 1 && (count < 0 || t.size(0) == count),
        "bank_fit: ", name, " has a wrong dtype, place or shape");
    return contiguous_of(name, t);
}
inline std::vector<int64_t> listed(const Tensor& t) {
    const int64_t* p = pointer<int64_t>(t);
    return std::vector<int64_t>(p, p + t.numel());
}

// The tensors of a bank as lists that are changed in place: layer after layer, the weights [M, in, out], then
// the biases [M, out].
struct BankValues {
    std::vector<Values> tensors;

    BankValues(const char* name, const Net& net, int64_t modules, ScalarType dtype, const Tensors& list) {
        if (list.empty()) return;
        STD_TORCH_CHECK(list.size() == 2 * net.layers.size(), "bank_fit: ", name,
                        " must hold two tensors a layer");
        for (size_t t = 0; t < list.size(); ++t) {
            const Layer& layer = net.layers[t / 2];
            STD_TORCH_CHECK(list[t].is_cpu() && list[t].scalar_type() == dtype, "bank_fit: ", name,
                            " must be on the CPU with the dtype of x");
            if (t % 2 == 0)
                check_shape(name, list[t], {modules, layer.in, layer.out});
            else
                check_shape(name, list[t], {modules, layer.out});
            check_memory(name, list[t]);
            check_written(name, list[t]);
            tensors.emplace_back(Tensors{list[t]});
        }
    }
    template <class S>
    S* at(size_t t) const {
        return tensors.empty() ? nullptr : tensors[t].write<S>(0);
    }
    void put_back() {
        for (Values& t : tensors) t.put_back();
    }
};

// Refuses what would make a step read or divide beyond its arguments.
template <class S>
void check_calls(const Fit<S>& fit, const OptTensor& given, int64_t rates) {
    const FitOptions& o = fit.options;
    STD_TORCH_CHECK(o.rule >= kDrawUniform && o.rule <= kDrawGiven, "bank_fit: unknown rule");
    STD_TORCH_CHECK(o.rule == kDrawWhole || (o.batch >= 1 && o.batch <= int64_t(1) << 31),
                    "bank_fit: batch out of range");
    STD_TORCH_CHECK(o.task >= 0 && o.task <= kMaxDrawTask, "bank_fit: task out of range");
    STD_TORCH_CHECK(o.frozen_layers >= 0 && o.frozen_layers < static_cast<int64_t>(fit.net.layers.size()),
                    "bank_fit: frozen_layers out of range");
    STD_TORCH_CHECK(o.sgd_steps >= 0 && o.check_every >= 1,
                    "bank_fit: sgd_steps or check_every out of range");
    int64_t most = 0;
    for (int64_t m = 0; m < fit.modules(); ++m) {
        if (fit.goal[m] <= fit.first[m]) continue;
        most = std::max(most, fit.goal[m] - fit.first[m]);
        STD_TORCH_CHECK(fit.first[m] >= 0 && fit.goal[m] <= rates,
                        "bank_fit: rates must reach to each module's goal");
        STD_TORCH_CHECK(fit.samples[m].n >= 1 && fit.samples[m].n <= kMaxDrawNumber, "bank_fit: module ", m,
                        " must have samples");
        STD_TORCH_CHECK(fit.module_numbers[m] >= 0 && fit.module_numbers[m] <= kMaxDrawNumber &&
                            fit.goal[m] <= kMaxDrawNumber,
                        "bank_fit: a module's number or step is out of range");
    }
    if (o.rule != kDrawGiven) return;
    STD_TORCH_CHECK(given && given->is_cpu() && given->scalar_type() == ScalarType::Long &&
                        given->dim() == 3 && given->size(0) >= most && given->size(1) == fit.modules() &&
                        given->size(2) == o.batch,
                    "bank_fit: ids must be int64 [K, M, batch]");
    const int64_t* id = pointer<int64_t>(*given);
    for (int64_t k = 0; k < given->size(0); ++k)
        for (int64_t m = 0; m < fit.modules(); ++m)
            for (int64_t j = 0; j < o.batch; ++j, ++id)
                STD_TORCH_CHECK(fit.goal[m] <= fit.first[m] || (*id >= 0 && *id < fit.samples[m].n),
                                "bank_fit: ids[", k, ", ", m, ", ", j, "] is no sample of its module");
}

}  // namespace mclnf

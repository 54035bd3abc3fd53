// What every op of a fit takes beside its samples, once for all of them and for both libraries: STEPS of
// schema.cpp.
#pragma once

#include "bank_step_tensors.h"

namespace mclnf {

// The parameters of a function, and the same in the order of FitArguments.
#define MCLNF_FIT_PARAMETERS                                                                         \
    Tensors params, Tensors exp_avg, Tensors exp_avg_sq, Tensor steps, Tensor goal, Tensor rates,    \
        int64_t sgd_steps, bool adam, int64_t frozen_layers, double beta1, double beta2, double eps, \
        double lam, Tensors fisher, Tensors anchor, int64_t rule, int64_t batch, OptTensor ids,      \
        OptTensor ids_weight, int64_t seed, int64_t task, Tensor module_numbers, Tensor log_at,      \
        Tensor snapshot_at, OptTensor stop_loss, int64_t check_every, int64_t precision
#define MCLNF_FIT_ARGUMENTS                                                                                  \
    params, exp_avg, exp_avg_sq, steps, goal, rates, sgd_steps, adam, frozen_layers, beta1, beta2, eps, lam, \
        fisher, anchor, rule, batch, ids, ids_weight, seed, task, module_numbers, log_at, snapshot_at,       \
        stop_loss, check_every, precision

struct FitArguments {
    Tensors params, exp_avg, exp_avg_sq;
    Tensor steps, goal, rates;
    int64_t sgd_steps;
    bool adam;
    int64_t frozen_layers;
    double beta1, beta2, eps, lam;
    Tensors fisher, anchor;
    int64_t rule, batch;
    OptTensor ids, ids_weight;
    int64_t seed, task;
    Tensor module_numbers, log_at, snapshot_at;
    OptTensor stop_loss;
    int64_t check_every, precision;

    int64_t modules() const { return steps.numel(); }
};

}  // namespace mclnf

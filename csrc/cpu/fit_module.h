// One module's steps of `bank_fit`: draw, gather, gradients, optimizer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "bank_inputs.h"
#include "draw_ids.h"
#include "fit_guide.h"
#include "fit_samples.h"
#include "step_range.h"

namespace mclnf {

struct FitOptions {
    DrawRule rule;
    int64_t batch, seed, task, sgd_steps, check_every;
    bool adam;
    int64_t frozen_layers;  // first ones that stay as they are
    double beta1, beta2, eps, lam;
    const double* rates;  // of step 0, 1, ... of a task
};

// A tensor of the state [modules, size]; m and v are null for SGD, fisher and anchor without a trust region.
template <class S>
struct FitTensor {
    S *p, *m, *v;
    const S *fisher, *anchor;
    int64_t size;
};

// All that the steps of a call read and write. Modules share nothing that is written.
template <class S>
struct Fit {
    const Net& net;
    FitOptions options;
    std::vector<FitSamples<S>> samples;        // per module
    std::vector<FitTensor<S>> tensors;         // per layer: the weights, then the biases
    const int64_t* ids;                        // [K, modules, batch] of kDrawGiven
    const S* ids_weight;                       // like ids; null: ones
    const int64_t* module_numbers;             // that the draws are keyed by
    int64_t* steps;                            // made, per module
    std::vector<int64_t> first, goal;          // of `steps`, at the beginning and at the end of the call
    int64_t* ends;                             // a FitEnd per module
    std::vector<int64_t> log_at, snapshot_at;  // numbers of steps, ascending
    S* losses;                                 // [log_at, modules]
    std::vector<std::vector<S*>> snapshots;    // [snapshot_at][tensor]
    const double* stop_loss;                   // per module; null: none stops
    double* checked;                           // the last loss over all samples, per module
    const FitRays<S>* rays = nullptr;          // null: the samples are the field's own
    const FitGuide<S>* guide = nullptr;        // of kDrawGuided

    // Numbers of a sample's target.
    int64_t outputs() const { return rays ? 3 : net.out_dim; }
    Plan plan(int64_t n) const { return Plan::fixed({0, n}, rays ? kMinRays : kMinPoints); }
    int64_t modules() const { return static_cast<int64_t>(samples.size()); }
    int64_t batch_of(int64_t m) const { return options.rule == kDrawWhole ? samples[m].n : options.batch; }
    // Runs that a module's step is cut into: what threads could share.
    int64_t runs_of(int64_t m) const { return static_cast<int64_t>(plan(batch_of(m)).runs.size()); }
};

// Makes steps of one module after the other; a thread has one, with the memory that they need. `Each` calls
// f(run) for all runs of a plan, which may be on several threads.
template <class S, class Each>
class FitSteps {
  public:
    FitSteps(const Fit<S>& fit, const Each& each)
        : fit_(fit),
          net_(fit.net),
          each_(each),
          grads_(net_.parameters),
          weights_(net_.layers.size()),
          biases_(net_.layers.size()),
          scores_(fit.guide, fit.net, fit.options.frozen_layers) {
        for (int64_t t = 0; t < 2 * fit.options.frozen_layers; ++t) frozen_ += fit.tensors[t].size;
    }

    // Makes `count` more steps of module m, or fewer if it ends; returns whether there are more to make.
    bool run(int64_t m, int64_t count) {
        for (size_t l = 0; l < weights_.size(); ++l) {
            weights_[l] = at(2 * l, m).p;
            biases_[l] = at(2 * l + 1, m).p;
        }
        for (int64_t i = 0; i < count && fit_.steps[m] < fit_.goal[m]; ++i)
            if (!step(m)) return false;
        return fit_.steps[m] < fit_.goal[m];
    }

  private:
    FitTensor<S> at(size_t t, int64_t m) const {
        FitTensor<S> share = fit_.tensors[t];
        const int64_t offset = m * share.size;
        share.p += offset;
        if (share.m) share.m += offset, share.v += offset;
        if (share.fisher) share.fisher += offset, share.anchor += offset;
        return share;
    }

    // False if the module ends.
    bool step(int64_t m) {
        const int64_t k = fit_.steps[m];
        const FitBatch<S> batch = batch_at(m, k);
        const bool scored = fit_.guide && fit_.guide->scores_at(k);
        const double loss = scored ? scored_sweep(m, batch) : sweep(fit_.samples[m], batch, k, true);
        log(m, k + 1, loss);
        const FitOptions& o = fit_.options;
        const bool adam = o.adam && k >= o.sgd_steps;
        const StepFactors<S> factors = step_factors<S>(adam, static_cast<double>(k - o.sgd_steps + 1),
                                                       o.rates[k], o.beta1, o.beta2, o.eps, o.lam);
        if (!std::isfinite(loss) || !can_step(m, adam, factors) || (scored && !scores_.finite())) {
            fit_.ends[m] = kFitDiverged;
            return false;
        }
        const S* gradient = grads_.data() + frozen_;
        for (size_t t = 2 * o.frozen_layers; t < fit_.tensors.size(); ++t) {
            const FitTensor<S> s = at(t, m);
            step_range(factors,
                       {s.p, adam ? s.m : nullptr, adam ? s.v : nullptr, gradient, s.fisher, s.anchor},
                       s.size);
            gradient += s.size;
        }
        if (scored) scores_.take_in(m, draws_);
        fit_.steps[m] = k + 1;
        snapshot(m, k + 1);
        return !at_target(m, k + 1);
    }

    // Whether the step leaves finite numbers: checked before it, since afterwards the last finite state is
    // lost.
    bool can_step(int64_t m, bool adam, const StepFactors<S>& factors) const {
        S gradient = largest(grads_.data() + frozen_, net_.parameters - frozen_);
        if (!std::isfinite(gradient)) return false;
        if (factors.lam != S(0)) {
            S pull = S(0);
            for (size_t t = 2 * fit_.options.frozen_layers; t < fit_.tensors.size(); ++t) {
                const FitTensor<S> s = at(t, m);
                for (int64_t i = 0; i < s.size; ++i) {
                    const S g = std::abs(pulled(factors, S(0), s.p[i], s.fisher[i], s.anchor[i]));
                    if (!std::isfinite(g)) return false;  // a maximum would lose a NaN
                    pull = std::max(pull, g);
                }
            }
            gradient += pull;
            if (!std::isfinite(gradient)) return false;
        }
        return bounded_step(factors, adam, gradient, std::numeric_limits<S>::max());
    }

    FitBatch<S> batch_at(int64_t m, int64_t k) {
        const FitOptions& o = fit_.options;
        if (o.rule == kDrawWhole) return {nullptr, nullptr, fit_.samples[m].n};
        if (o.rule == kDrawGiven) {
            const int64_t row = ((k - fit_.first[m]) * fit_.modules() + m) * o.batch;
            return {fit_.ids + row, fit_.ids_weight ? fit_.ids_weight + row : nullptr, o.batch};
        }
        const DrawCounter counter = draw_counter(o.seed, o.task, fit_.module_numbers[m], k);
        if (fit_.guide) return draws_.draw(*fit_.guide, counter, m, fit_.samples[m].n, o.batch);
        ids_.resize(o.batch + 1);
        draw_batch(o.rule, counter, fit_.samples[m].n, o.batch, ids_.data());
        return {ids_.data(), nullptr, o.batch};
    }

    // The loss of a batch in step k and, if asked for, its gradients in grads_. Cut into runs by the batch's
    // own size alone, so that neither the modules beside it nor the threads change a bit.
    double sweep(const FitSamples<S>& samples, const FitBatch<S>& batch, int64_t k, bool gradients) {
        const int64_t n = batch.size;
        plan(n);
        const S scale = S(1) / static_cast<S>(n * fit_.outputs());
        // All rays of the batch at once: their jitter is keyed by their place in it.
        const FitSamples<S> rays = fit_.rays ? drawn(samples, batch, 0, n, batch_rows_) : samples;
        each_(static_cast<int64_t>(plan_.runs.size()), [&](int64_t r) {
            const Run& run = plan_.runs[r];
            S* const to = gradients ? gradients_of(run) : nullptr;
            errors_[r] = fit_.rays ? sweep_rays(rays, run, gradients ? k : -1, scale, to)
                                   : sweep_points(samples, batch, run, scale, to);
        });
        if (gradients) add_partial(partial_, grads_);
        return total_error();
    }

    // The loss of a batch of module m, its gradients in grads_, and the scores of its samples. The sweep is
    // over the samples' own losses, which their scores are of; the mean comes behind it.
    double scored_sweep(int64_t m, const FitBatch<S>& batch) {
        plan(batch.size);
        scores_.begin(m, batch.size, plan_);
        const S scale = S(1) / static_cast<S>(fit_.outputs()), size = static_cast<S>(batch.size);
        each_(static_cast<int64_t>(plan_.runs.size()), [&](int64_t r) {
            static thread_local ParameterView<S> inverse, squares;
            const Run& run = plan_.runs[r];
            errors_[r] = sweep_points(fit_.samples[m], batch, run, scale, gradients_of(run),
                                      scores_.of(run, inverse, squares));
        });
        add_partial(partial_, grads_);
        add_partial(scores_.partial(), scores_.squares());
        scores_.finish(batch);
        for (S& gradient : grads_) gradient /= size;
        return total_error() / static_cast<double>(batch.size);
    }

    void plan(int64_t n) {
        if (n == planned_) return;
        plan_ = fit_.plan(n);
        planned_ = n;
        errors_.resize(plan_.runs.size());
        partial_.resize(plan_.slots * net_.parameters);
    }
    S* gradients_of(const Run& run) {
        return run.slot < 0 ? grads_.data() : partial_.data() + run.slot * net_.parameters;
    }
    double total_error() const {
        double total = 0;
        for (const double error : errors_) total += error;
        return total;
    }

    double sweep_points(const FitSamples<S>& samples, const FitBatch<S>& batch, const Run& run, S scale,
                        S* grads, const FisherSweep<S>& fisher = {}) const {
        static thread_local std::vector<S> rows;
        const FitSamples<S> own = drawn(samples, batch, run.begin, run.end, rows);
        OutputGradient<S> output;
        output.target = own.target;
        output.weight = own.weight;
        output.scale = scale;
        return backward(own.x, own.n, output, grads, fisher);
    }

    // jitter: the seed of it; below 0: none.
    double sweep_rays(const FitSamples<S>& batch, const Run& run, int64_t jitter, S scale, S* grads) const {
        static thread_local CutRays<S> cut;
        cut.run(*fit_.rays, batch, run.begin, run.end, jitter, net_.in_dim);
        Pixels<S> pixels = fit_.rays->shading;
        pixels.rays = cut.first.data();
        pixels.count = run.size();
        pixels.deltas = cut.deltas.data();
        pixels.target = batch.target + 3 * run.begin;
        pixels.weight = batch.weight ? batch.weight + run.begin : nullptr;
        OutputGradient<S> output;
        output.pixels = &pixels;
        output.scale = scale;
        return backward(cut.x.data(), cut.first.back(), output, grads);
    }

    // The error of n points and, if asked for, its gradients in grads and what a Fisher sweep gives.
    double backward(const S* x, int64_t n, const OutputGradient<S>& output, S* grads,
                    const FisherSweep<S>& fisher = {}) const {
        static thread_local std::vector<S*> layers;
        const ModulePoints<S> points{{weights_.data(), biases_.data()}, x, n};
        BackwardResults<S> results;
        if (grads) {
            const size_t count = net_.layers.size();
            layers.resize(2 * count);
            for (size_t l = 0; l < count; ++l) {
                layers[l] = grads;
                layers[count + l] = grads + net_.layers[l].weights();
                grads = layers[count + l] + net_.layers[l].out;
            }
            results.grads = {layers.data(), layers.data() + count};
        }
        results.fisher = fisher;
        double error = 0;
        results.error = &error;
        bank_table<S>().backward(net_, points, output, results);
        return error;
    }

    // The samples begin ... end - 1 of a batch.
    FitSamples<S> drawn(const FitSamples<S>& from, const FitBatch<S>& batch, int64_t begin, int64_t end,
                        std::vector<S>& rows) const {
        const int64_t in = fit_.rays ? 3 : net_.in_dim;
        return gather(from, batch, begin, end, {in, fit_.outputs(), net_.in_dim - in}, rows);
    }

    // In the order of the runs, as RunSums adds; a single run has written to `to` itself.
    void add_partial(const std::vector<S>& partial, std::vector<S>& to) const {
        if (plan_.slots == 0) return;
        const int64_t size = net_.parameters;
        const S* from = partial.data();
        for (int64_t i = 0; i < size; ++i) to[i] = from[i] + from[size + i];
        for (int64_t slot = 2; slot < plan_.slots; ++slot)
            for (int64_t i = 0; i < size; ++i) to[i] += from[slot * size + i];
    }

    void log(int64_t m, int64_t steps, double loss) const {
        const auto place = std::lower_bound(fit_.log_at.begin(), fit_.log_at.end(), steps);
        if (place == fit_.log_at.end() || *place != steps) return;
        fit_.losses[(place - fit_.log_at.begin()) * fit_.modules() + m] = static_cast<S>(loss);
    }
    void snapshot(int64_t m, int64_t steps) const {
        const auto place = std::lower_bound(fit_.snapshot_at.begin(), fit_.snapshot_at.end(), steps);
        if (place == fit_.snapshot_at.end() || *place != steps) return;
        const std::vector<S*>& to = fit_.snapshots[place - fit_.snapshot_at.begin()];
        for (size_t t = 0; t < to.size(); ++t) {
            const FitTensor<S> s = at(t, m);
            std::copy(s.p, s.p + s.size, to[t] + m * s.size);
        }
    }
    // Whether the loss over all samples has come down to the module's target; looked at now and then.
    bool at_target(int64_t m, int64_t steps) {
        if (!fit_.stop_loss || steps % fit_.options.check_every != 0) return false;
        fit_.checked[m] = sweep(fit_.samples[m], {nullptr, nullptr, fit_.samples[m].n}, steps, false);
        if (!(fit_.checked[m] <= fit_.stop_loss[m])) return false;
        fit_.ends[m] = kFitTarget;
        return true;
    }

    const Fit<S>& fit_;
    const Net& net_;
    const Each& each_;
    // Of all layers, weights and biases in turn; `partial_` has a row per run.
    std::vector<S> grads_, partial_, batch_rows_;
    std::vector<S*> weights_, biases_;
    int64_t frozen_ = 0;  // numbers of the layers that stay
    Plan plan_;
    int64_t planned_ = -1;
    std::vector<double> errors_;
    std::vector<int64_t> ids_;
    GuidedDraws<S> draws_;
    StepScores<S> scores_;
};

}  // namespace mclnf

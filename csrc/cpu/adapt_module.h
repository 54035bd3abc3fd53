// The inner steps of one module in `bank_adapt`, and their derivative: gather, gradients, descent; Hessian
// products on the way back.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "bank_inputs.h"
#include "fit_samples.h"

namespace mclnf {

// Points of a run, which packs weights and tangents of its own: few cuts, since modules keep the cores busy.
constexpr int64_t kInnerPoints = 1024;

// All that the steps of a call read. Modules share nothing that is written.
template <class S>
struct Adapt {
    const Net& net;
    std::vector<FitSamples<S>> samples;  // per module
    int64_t steps;
    // Samples of a step: those of `ids`, or the next ones in their order; 0: all of a module in each step.
    int64_t batch;
    const int64_t* ids;   // [steps, modules, batch] or null
    const S* ids_weight;  // like ids; null: ones
    const S* rates;       // [steps, modules, layers]
    int64_t frozen_layers;
    S clip;  // of the gradient's entries; infinite: none

    int64_t modules() const { return static_cast<int64_t>(samples.size()); }
    int64_t batch_of(int64_t m) const { return batch > 0 ? batch : samples[m].n; }
    Plan plan(int64_t n) const { return Plan::fixed({0, n}, kInnerPoints); }
    const S* rates_of(int64_t m, int64_t k) const {
        return rates + (k * modules() + m) * static_cast<int64_t>(net.layers.size());
    }
    // The samples begin ... end - 1 of module m's step k: where they lie, or in `rows` if they are drawn.
    FitSamples<S> drawn(int64_t m, int64_t k, int64_t begin, int64_t end, std::vector<S>& rows) const {
        const SampleWidths width{net.in_dim, net.out_dim, 0};
        const int64_t row = (k * modules() + m) * batch, first = ids ? 0 : k * batch;
        const FitBatch<S> of_step{ids ? ids + row : nullptr, ids_weight ? ids_weight + row : nullptr, batch};
        return gather(samples[m], of_step, first + begin, first + end, width, rows);
    }
    S clipped(S g) const { return std::min(std::max(g, -clip), clip); }  // NaN stays
};

// Makes steps of one module after the other; a thread has one, with the memory that they need. `Each` calls
// f(run) for all runs of a plan, which may be on several threads.
template <class S, class Each>
class AdaptSteps {
  public:
    AdaptSteps(const Adapt<S>& adapt, const Each& each)
        : adapt_(adapt),
          net_(adapt.net),
          each_(each),
          gradient_(net_.parameters),
          direction_(net_.parameters),
          product_(net_.parameters) {}

    // Step k of module m, from theta and in its place; returns the loss before it.
    S step(int64_t m, int64_t k, const ParameterView<S>& theta) {
        const double loss = sweep_gradient(m, k, theta.read());
        const S *g = gradient_.data(), *rates = adapt_.rates_of(m, k);
        each_layer(theta, [&](int64_t l, S* values, int64_t size) {
            if (l >= adapt_.frozen_layers)
                for (int64_t i = 0; i < size; ++i) values[i] -= rates[l] * adapt_.clipped(g[i]);
            g += size;
        });
        return static_cast<S>(loss);
    }

    // Step k backwards: v, the gradient of the parameters after it, becomes that of those before it, theta.
    // grad_loss: of the loss before the step. grad_rates [layers] or null. exact: with the derivative of the
    // gradient, else the step's own is the identity.
    void back(int64_t m, int64_t k, const Parameters<S>& theta, const ParameterView<S>& v, S grad_loss,
              S* grad_rates, bool exact) {
        const bool clips = std::isfinite(adapt_.clip);
        if (grad_rates || grad_loss != S(0) || (exact && clips)) sweep_gradient(m, k, theta);
        if (grad_rates) rate_gradients(v, grad_rates);
        if (exact) {
            // d theta_next / d theta = 1 - H D, with the rates (0 where an entry is clipped) on D's diagonal.
            const S *g = gradient_.data(), *rates = adapt_.rates_of(m, k);
            S* to = direction_.data();
            each_layer(v, [&](int64_t l, S* values, int64_t size) {
                const S rate = l >= adapt_.frozen_layers ? rates[l] : S(0);
                for (int64_t i = 0; i < size; ++i)
                    to[i] = clips && !(std::abs(g[i]) <= adapt_.clip) ? S(0) : rate * values[i];
                to += size;
                g += size;
            });
            sweep_product(m, k, theta);
            add(v, S(-1), product_.data());
        }
        if (grad_loss != S(0)) add(v, grad_loss, gradient_.data());
    }

  private:
    // f(layer, values, count) on every tensor's share.
    template <class F>
    void each_layer(const ParameterView<S>& view, const F& f) const {
        int64_t t = 0;
        view.each(net_, [&](S* values, int64_t size) { f(t++ / 2, values, size); });
    }
    void add(const ParameterView<S>& to, S factor, const S* from) const {
        to.each(net_, [&](S* values, int64_t size) {
            for (int64_t i = 0; i < size; ++i) values[i] += factor * from[i];
            from += size;
        });
    }
    // - <v, step's direction> of each layer, in double.
    void rate_gradients(const ParameterView<S>& v, S* grad_rates) const {
        std::vector<double> sums(net_.layers.size());
        const S* g = gradient_.data();
        each_layer(v, [&](int64_t l, const S* values, int64_t size) {
            for (int64_t i = 0; i < size && l >= adapt_.frozen_layers; ++i)
                sums[l] -= static_cast<double>(values[i]) * static_cast<double>(adapt_.clipped(g[i]));
            g += size;
        });
        std::copy(sums.begin(), sums.end(), grad_rates);
    }

    // The loss of step k's samples at theta, its gradients in gradient_.
    double sweep_gradient(int64_t m, int64_t k, const Parameters<S>& theta) {
        return sweep(
            m, k, gradient_,
            [&](const ModulePoints<S>& points, const OutputGradient<S>& output, const Gradients<S>& to) {
                double error = 0;
                BackwardResults<S> results;
                results.grads = to;
                results.error = &error;
                bank_table<S>().backward(net_, {theta, points.x, points.n}, output, results);
                return error;
            });
    }
    // The product of that loss's Hessian with direction_, in product_.
    void sweep_product(int64_t m, int64_t k, const Parameters<S>& theta) {
        const ParameterView<S> direction(direction_.data(), net_);
        sweep(m, k, product_,
              [&](const ModulePoints<S>& points, const OutputGradient<S>& output, const Gradients<S>& to) {
                  bank_table<S>().second(net_, {theta, points.x, points.n}, output,
                                         {nullptr, direction.read()}, {nullptr, to, nullptr});
                  return 0.0;
              });
    }

    // f(points, output gradient, sums) -> error of every run of step k's samples; the sums over them in `to`.
    // Cut into runs by the batch's own size alone, so that neither the modules beside it nor the threads
    // change a bit.
    template <class F>
    double sweep(int64_t m, int64_t k, std::vector<S>& to, const F& f) {
        const int64_t n = adapt_.batch_of(m);
        if (n != planned_) {
            plan_ = adapt_.plan(n);
            planned_ = n;
            errors_.resize(plan_.runs.size());
            partial_.resize(plan_.slots * net_.parameters);
        }
        if (n == 0) std::fill(to.begin(), to.end(), S(0));
        each_(static_cast<int64_t>(plan_.runs.size()), [&](int64_t r) {
            static thread_local std::vector<S> rows;
            const Run& run = plan_.runs[r];
            const FitSamples<S> own = adapt_.drawn(m, k, run.begin, run.end, rows);
            OutputGradient<S> output;
            output.target = own.target;
            output.weight = own.weight;
            output.scale = S(1) / static_cast<S>(n * net_.out_dim);
            S* const sums = run.slot < 0 ? to.data() : partial_.data() + run.slot * net_.parameters;
            errors_[r] = f(ModulePoints<S>{{}, own.x, own.n}, output, ParameterView<S>(sums, net_).write());
        });
        for (int64_t slot = 0; slot < plan_.slots; ++slot) {  // in their order
            const S* row = partial_.data() + slot * net_.parameters;
            for (int64_t i = 0; i < net_.parameters; ++i) to[i] = slot == 0 ? row[i] : to[i] + row[i];
        }
        double total = 0;
        for (const double error : errors_) total += error;
        return total;
    }

    const Adapt<S>& adapt_;
    const Net& net_;
    const Each& each_;
    // Of all layers, weights and biases in turn; `partial_` has a row per run.
    std::vector<S> gradient_, direction_, product_, partial_;
    Plan plan_;
    int64_t planned_ = -1;
    std::vector<double> errors_;
};

}  // namespace mclnf

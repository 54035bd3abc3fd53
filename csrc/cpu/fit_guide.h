// The draw rule `guided` of `bank_fit`: which samples a step takes by the scores of earlier ones, and what a
// step that scores its own samples leaves.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "bank_parameters.h"
#include "bank_plan.h"
#include "bank_table.h"
#include "fit_samples.h"
#include "math/guided_draws.h"
#include "math/running_fisher.h"
#include "step_range.h"

namespace mclnf {

// Options and state of the rule. With mix 0 nothing is scored, and the tensors of the state are null.
template <class S>
struct FitGuide {
    double mix, smooth, decay, damping;
    int64_t block, refresh;
    std::vector<const int64_t*> curves;  // per module [n], or null: the samples' own order
    int64_t row;                         // blocks of a module in `scores` and `window`
    double *scores, *window;  // [modules, row]: the latest, and those that the window's draws follow
    int64_t* batches;         // in the running Fisher, per module
    std::vector<S*> fisher;   // the running Fisher, per tensor of the parameters [modules, size]

    bool follows_scores() const { return mix > 0; }
    bool scores_at(int64_t step) const { return follows_scores() && step % refresh == 0; }
};

// The draws of a thread's modules.
template <class S>
class GuidedDraws {
  public:
    // Of a module of n samples. At a window's first step its draws begin to follow the latest scores.
    FitBatch<S> draw(const FitGuide<S>& guide, const DrawCounter& at, int64_t module, int64_t n,
                     int64_t batch) {
        const ScoreBlocks blocks{n, guide.block};
        if (guide.follows_scores()) {
            double* const row = guide.window + module * guide.row;
            const int64_t window = at.step / kDrawWindow;
            if (at.step % kDrawWindow == 0) {
                std::copy_n(guide.scores + module * guide.row, guide.row, row);
                module_ = -1;
            }
            if (module_ != module || window_ != window) {
                mass_.resize(blocks.count());
                sum_.resize(blocks.count());
                known_ = score_density(SingleThread(), row, blocks, guide.mix, mass_.data(), sum_.data());
                module_ = module;
                window_ = window;
            }
        }
        const bool known = guide.follows_scores() && known_;
        ids_.resize(batch);
        block_.resize(batch);
        weight_.resize(batch);
        const int place = window_place(at);
        const double parts = static_cast<double>(kDrawWindow) * static_cast<double>(batch),
                     samples_per_part = static_cast<double>(n) / parts;
        const int64_t* const curve = guide.curves[module];
        const int64_t last = blocks.count() - 1;
        int64_t block = 0;  // the draws ascend
        for (int64_t j = 0; j < batch; j += 4) {
            uint32_t words[4];
            at.words(kDrawSamples, at.step, static_cast<uint32_t>(j / 4), words);
            for (int64_t i = j; i < std::min(j + 4, batch); ++i) {
                int64_t on_curve;
                if (known) {
                    const double u = even_part(i, place, words[i - j]) / parts;
                    while (block < last && !(sum_[block] > u)) ++block;
                    on_curve = place_in_block(u, block, blocks, mass_[block], sum_[block]);
                    weight_[i] = static_cast<S>(draw_weight(block, blocks, mass_[block]));
                    block_[i] = block;
                } else {
                    on_curve = even_id(i, place, words[i - j], n, samples_per_part);
                    block_[i] = on_curve / guide.block;
                }
                ids_[i] = curve ? curve[on_curve] : on_curve;
            }
        }
        return {ids_.data(), known ? weight_.data() : nullptr, batch};
    }

    // Takes the scores of the last draws into those of their blocks.
    void take_in(const FitGuide<S>& guide, int64_t module, const std::vector<S>& scores) const {
        double* const row = guide.scores + module * guide.row;
        const size_t size = block_.size();
        for (size_t j = 0, end; j < size; j = end) {
            for (end = j + 1; end < size && block_[end] == block_[j];) ++end;
            double& score = row[block_[j]];
            score = block_score(score, scores.data() + j, static_cast<int64_t>(end - j), guide.smooth);
        }
    }

  private:
    std::vector<int64_t> ids_, block_;
    std::vector<S> weight_;
    std::vector<double> mass_, sum_;
    int64_t module_ = -1, window_ = -1;  // whose density `mass_` and `sum_` are
    bool known_ = false;
};

// The scores of a step's samples, against the running Fisher of the steps before, and the step's own Fisher.
// Of the layers that are trained: what a sample would do to the others says nothing.
template <class S>
class StepScores {
  public:
    StepScores(const FitGuide<S>* guide, const Net& net, int64_t frozen_layers)
        : guide_(guide), net_(net), first_(2 * frozen_layers) {
        if (!guide || !guide->follows_scores()) return;
        for (size_t t = 0; t < guide->fisher.size(); ++t) (t < first_ ? frozen_ : moving_) += size_of(t);
        inverse_.assign(net.parameters, S(0));
        squares_.resize(net.parameters);
    }

    // Before the sweep over a batch of module m, cut by `plan`.
    void begin(int64_t m, int64_t n, const Plan& plan) {
        known_ = guide_->batches[m] > 0;
        partial_.resize(plan.slots * net_.parameters);
        if (!known_) return;  // a first batch could be scored against itself alone, which says nothing
        scores_.resize(n);
        const S damping = damping_of(m);
        S* to = inverse_.data() + frozen_;
        for (size_t t = first_; t < guide_->fisher.size(); ++t) {
            const S* f = guide_->fisher[t] + m * size_of(t);
            for (int64_t i = 0; i < size_of(t); ++i) *to++ = inverse_fisher(f[i], damping);
        }
    }
    // What the sweep over a run writes. The views point to its results, and outlive it.
    FisherSweep<S> of(const Run& run, ParameterView<S>& inverse, ParameterView<S>& squares) {
        FisherSweep<S> sweep;
        squares = ParameterView<S>(
            run.slot < 0 ? squares_.data() : partial_.data() + run.slot * net_.parameters, net_);
        sweep.squares = squares.write();
        if (known_) {
            inverse = ParameterView<S>(inverse_.data(), net_);
            sweep.inverse = inverse.read();
            sweep.scores = scores_.data() + run.begin;
        }
        return sweep;
    }
    // The sum over the runs, which is in the rows of `partial` if there are several.
    std::vector<S>& squares() { return squares_; }
    const std::vector<S>& partial() const { return partial_; }

    // After the sweep: the mean over the batch, and scores of the losses without the weights of the draws.
    void finish(const FitBatch<S>& batch) {
        const S share = S(1) / static_cast<S>(batch.size);
        for (S& value : squares_) value *= share;
        if (known_ && batch.weight)
            for (int64_t j = 0; j < batch.size; ++j) scores_[j] = own_score(scores_[j], batch.weight[j]);
    }
    bool finite() const {
        return std::isfinite(largest(squares_.data() + frozen_, moving_)) &&
               (!known_ || std::isfinite(largest(scores_.data(), static_cast<int64_t>(scores_.size()))));
    }
    void take_in(int64_t m, const GuidedDraws<S>& draws) {
        if (known_) draws.take_in(*guide_, m, scores_);
        const S rate = static_cast<S>(1.0 - guide_->decay);
        const S* from = squares_.data() + frozen_;
        for (size_t t = first_; t < guide_->fisher.size(); ++t) {
            S* f = guide_->fisher[t] + m * size_of(t);
            for (int64_t i = 0; i < size_of(t); ++i, ++from)
                f[i] = running_fisher(!known_, rate, f[i], *from);
        }
        ++guide_->batches[m];
    }

  private:
    int64_t size_of(size_t t) const {
        const Layer& layer = net_.layers[t / 2];
        return t % 2 == 0 ? layer.weights() : layer.out;
    }
    // Relative to the mean of the module's running Fisher; summed in double, tensor by tensor.
    S damping_of(int64_t m) const {
        double total = 0;
        for (size_t kind = 0; kind < 2; ++kind)  // weights, then biases
            for (size_t t = first_ + kind; t < guide_->fisher.size(); t += 2) {
                const S* f = guide_->fisher[t] + m * size_of(t);
                double sum = 0;
                for (int64_t i = 0; i < size_of(t); ++i) sum += static_cast<double>(f[i]);
                total += sum;
            }
        return mean_damping<S>(guide_->damping, total, moving_);
    }

    const FitGuide<S>* const guide_;
    const Net& net_;
    const size_t first_;                // tensor that is trained
    int64_t frozen_ = 0, moving_ = 0;   // numbers of the tensors before it, and of the others
    std::vector<S> inverse_, squares_;  // like the parameters, layer after layer
    std::vector<S> partial_, scores_;
    bool known_ = false;  // the running Fisher
};

}  // namespace mclnf

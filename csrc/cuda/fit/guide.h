// The draw rule `guided` of `bank_fit` by the threads of a block: which samples a step takes by the scores of
// earlier ones, and what a step that scores its own samples leaves (csrc/cpu/fit_guide.h is the CPU's).
#pragma once

#include "batch.h"
#include "math/guided_draws.h"
#include "math/running_fisher.h"
#include "parameters.h"

namespace mclnf {

// The threads of a block as score_density takes them; `shared` is a number that all of them see.
struct BlockTeam {
    double* shared;

    template <typename F>
    __device__ void each(int64_t count, const F& f) const {
        for (int64_t i = threadIdx.x; i < count; i += blockDim.x) f(i);
        __syncthreads();
    }
    template <typename F>
    __device__ double once(const F& f) const {
        if (threadIdx.x == 0) *shared = f();
        __syncthreads();
        const double result = *shared;
        __syncthreads();
        return result;
    }
};

template <typename S>
class FitGuide {
  public:
    __device__ FitGuide(const FitCall<S>& call, const FitMemory<S>& memory)
        : c_(call), guide_(call.guide), mem_(memory) {}

    // Padding, which products read and nobody writes.
    __device__ void clear() const {
        if (!guide_->follows_scores()) return;
        for (int i = static_cast<int>(threadIdx.x); i < c_.net.values; i += FitTeam::all().threads)
            numbers(guide_->plan.inverse)[i] = S(0);
    }

    // Of module m with n samples; false if its state has no room for the scores of them.
    __device__ bool begin(int64_t m, int64_t n) {
        m_ = m;
        blocks_ = {n, guide_->block};
        return !guide_->follows_scores() || blocks_.count() <= guide_->row;
    }

    // The draws of step k; first: of the call. At a window's first step its draws begin to follow the latest
    // scores.
    __device__ void draw(FitBatch<S>& batch, int64_t k, bool first) {
        __syncthreads();  // who has read the last step's draws, and written scores
        const bool begins = k % kDrawWindow == 0;
        if (guide_->follows_scores() && (begins || first)) {
            const BlockTeam team{mem_.errors};
            double* const row = guide_->window + m_ * guide_->row;
            const double* const latest = guide_->scores + m_ * guide_->row;
            if (begins) team.each(guide_->row, [&](int64_t b) { row[b] = latest[b]; });
            known_ = score_density(team, row, blocks_, guide_->mix, mass(), sum());
        }
        batch.place = window_place(batch.counter);
        for (int64_t j = threadIdx.x; j < c_.batch; j += blockDim.x) draw_one(batch, j);
        batch.rule = kDrawGiven;
        batch.ids = ids();
        batch.ids_weight = follows() ? numbers(guide_->plan.weights) : nullptr;
        batch.squared = guide_->follows_scores() && k % guide_->refresh == 0;
        // A first batch could be scored against itself alone, which says nothing.
        batch.scored = batch.squared && guide_->batches[m_] > 0;
        if (batch.scored) invert();
    }

    // After the sweep over a batch: its Fisher, the mean over its samples, and their scores, of the losses
    // without the weights of the draws. False if a number of this thread's is not finite.
    __device__ bool finish_scores(const FitBatch<S>& batch) const {
        const S size = static_cast<S>(c_.batch);
        bool finite = true;
        if (batch.squared)
            each_parameter(c_.net, [&](int t, int, int at) {
                if (t < c_.frozen) return;
                S& square = numbers(guide_->plan.squares)[at];
                square *= size;
                finite = finite && square <= kMost<S>;
            });
        if (batch.scored)
            for (int64_t j = threadIdx.x; j < c_.batch; j += blockDim.x) {
                S& score = numbers(guide_->plan.scores)[j];
                score *= size * size;
                if (batch.ids_weight) score = own_score(score, batch.ids_weight[j]);
                finite = finite && score <= kMost<S>;
            }
        return finite;
    }

    // After the step: the scores into those of their blocks, and the batch's Fisher into the running one.
    // Behind a barrier of the step's, and before that of the next draws.
    __device__ void take_in(const FitBatch<S>& batch) const {
        if (!batch.squared) return;
        if (batch.scored) {
            const S* scores = numbers(guide_->plan.scores);
            const int64_t* block = blocks_of_draws();
            double* const row = guide_->scores + m_ * guide_->row;
            // The draws ascend: those of a block are neighbors, and the first one's thread takes all of them.
            for (int64_t j = threadIdx.x; j < c_.batch; j += blockDim.x) {
                if (j > 0 && block[j] == block[j - 1]) continue;
                int64_t end = j + 1;
                while (end < c_.batch && block[end] == block[j]) ++end;
                row[block[j]] = block_score(row[block[j]], scores + j, end - j, guide_->smooth);
            }
        }
        const S rate = static_cast<S>(1.0 - guide_->decay);
        each_parameter(c_.net, [&](int t, int i, int at) {
            if (t < c_.frozen) return;
            S& running = guide_->running[t][m_ * share_of(c_.net, t) + i];
            running = running_fisher(!batch.scored, rate, running, numbers(guide_->plan.squares)[at]);
        });
        if (threadIdx.x == 0) ++guide_->batches[m_];
    }

  private:
    template <typename T>
    __device__ T* at(int64_t bytes) const {
        return reinterpret_cast<T*>(mem_.guide + bytes);
    }
    __device__ S* numbers(int64_t bytes) const { return at<S>(bytes); }
    __device__ int64_t* ids() const { return at<int64_t>(guide_->plan.ids); }
    __device__ int64_t* blocks_of_draws() const { return at<int64_t>(guide_->plan.blocks); }
    __device__ double* mass() const { return at<double>(guide_->plan.mass); }
    __device__ double* sum() const { return at<double>(guide_->plan.sum); }
    __device__ bool follows() const { return guide_->follows_scores() && known_; }

    __device__ void draw_one(const FitBatch<S>& batch, int64_t j) const {
        uint32_t words[4];
        batch.counter.words(kDrawSamples, batch.counter.step, static_cast<uint32_t>(j / 4), words);
        uint32_t bits = words[0];
        for (int i = 1; i < 4; ++i) bits = j % 4 == i ? words[i] : bits;
        const double parts = static_cast<double>(kDrawWindow) * static_cast<double>(c_.batch);
        int64_t on_curve, block;
        if (follows()) {
            const double u = even_part(j, batch.place, bits) / parts;
            block = block_at(u, sum(), blocks_.count());
            on_curve = place_in_block(u, block, blocks_, mass()[block], sum()[block]);
            numbers(guide_->plan.weights)[j] = static_cast<S>(draw_weight(block, blocks_, mass()[block]));
        } else {
            on_curve = even_id(j, batch.place, bits, blocks_.n, static_cast<double>(blocks_.n) / parts);
            block = on_curve / guide_->block;
        }
        if (guide_->follows_scores()) blocks_of_draws()[j] = block;
        // Scores that are no numbers lead anywhere.
        const bool known = on_curve >= 0 && on_curve < blocks_.n;
        const int64_t* const curve =
            guide_->curve ? guide_->curve + (c_.offsets ? c_.offsets[m_] : 0) : nullptr;
        ids()[j] = !known ? -1 : curve ? curve[on_curve] : on_curve;
    }

    // 1 / (F + damping) of the running Fisher of the layers that are trained.
    __device__ void invert() const {
        int64_t count = 0;
        const double total = fisher_sum(count);
        const S damping = mean_damping<S>(guide_->damping, total, count);
        each_parameter(c_.net, [&](int t, int i, int at) {
            if (t < c_.frozen) return;
            const S running = guide_->running[t][m_ * share_of(c_.net, t) + i];
            numbers(guide_->plan.inverse)[at] = inverse_fisher(running, damping);
        });
    }

    // The sum of `count` numbers: in kFitThreads parts, however many threads there are, and in one order.
    __device__ double fisher_sum(int64_t& count) const {
        double part = 0;
        for (int t = c_.frozen; t < 2 * c_.net.layers; ++t) {
            const int64_t size = share_of(c_.net, t);
            const S* const running = guide_->running[t] + m_ * size;
            for (int64_t i = threadIdx.x; threadIdx.x < kFitThreads && i < size; i += kFitThreads)
                part += static_cast<double>(running[i]);
            count += size;
        }
        for (int by = 16; by > 0; by /= 2) part += __shfl_xor_sync(0xffffffffu, part, by);
        if (threadIdx.x % 32 == 0) mem_.errors[threadIdx.x / 32] = part;
        __syncthreads();
        double total = 0;
        for (int w = 0; w < kFitThreads / 32; ++w) total += mem_.errors[w];
        __syncthreads();
        return total;
    }

    const FitCall<S>& c_;
    const FitGuideCall<S>* const guide_;
    const FitMemory<S>& mem_;
    int64_t m_ = 0;
    ScoreBlocks blocks_ = {0, 1};
    bool known_ = false;  // whether a block of the window has a score
};

}  // namespace mclnf

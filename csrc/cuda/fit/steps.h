// The steps of one module by a block: draw, gradients, optimizer, and what is written down on the way.
#pragma once

#include "group.h"
#include "guide.h"
#include "parameters.h"
#include "sweep.h"

namespace mclnf {

// The first of an ascending list that is `value`, or -1.
__device__ inline int64_t place_of(const int64_t* list, int64_t count, int64_t value) {
    int64_t low = 0, high = count;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (list[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && list[low] == value ? low : -1;
}

// With operands that are rounded, a block's parameters are these operands, and those that are learned stay in
// global memory, where a step reads and writes them once.
// kShared: with the other blocks of a group, or by shares longer than a tile (group.h). In a kernel of its
// own, since the registers of those without are full. A module with Fisher-guided draws has one block.
template <typename S, int kPrecision, bool kRays, bool kGuided, bool kShared>
class FitSteps {
    static constexpr bool kRounded = kPrecision != kFp32;

  public:
    __device__ FitSteps(const FitCall<S>& call, const FitMemory<S>& memory)
        : c_(call), net_(call.net), mem_(memory), sweep_(call, memory), guide_(call, memory), group_(call) {
        static_assert(!(kGuided && kShared));
        if constexpr (kGuided) guide_.clear();
    }

    // Inlined, or the compiler would no longer see where the block's memory is.
    __device__ MCLNF_INLINE void run(int64_t module) {
        m_ = module;
        const int64_t first = c_.steps[m_], goal = c_.goal[m_];
        clear();
        if (goal <= first) return end(kFitFrozen, first);
        // What the caller can't look at without waiting for the device.
        if (!take_samples() || first < 0 || goal > c_.rate_count || goal > kMaxDrawNumber ||
            (c_.rule == kDrawGiven && goal - first > c_.id_rows))
            return end(kFitDiverged, first);
        if constexpr (kGuided)
            if (!guide_.begin(m_, batch_.samples)) return end(kFitDiverged, first);
        load();
        FitEnd reason = kFitSteps;
        int64_t k = first;
        // One sweep in the code for steps and for looks at the loss: it is nearly all of the kernel.
        for (bool look = false; look || k < goal;) {
            look ? take_all() : take_batch(k, k - first);
            double error = 0;
            if constexpr (kShared) {
                for (int share = group_.rank();; share += c_.group) {
                    const FitSpan span = group_.span(batch_.size, share);
                    if (span.from == span.to) break;
                    batch_.from = span.from;
                    batch_.to = span.to;
                    group_.keep(look ? nullptr : mem_.grads, share, sweep_.run(batch_, !look));
                }
            } else {
                batch_.from = 0;
                batch_.to = batch_.size;
                error = sweep_.run(batch_, !look);
            }
            if (look) {
                look = false;
                if (!at_target(error)) continue;
                reason = kFitTarget;
                break;
            }
            if (!step(k, error)) {
                reason = kFitDiverged;
                break;
            }
            copy_params(++k);
            look = c_.stop_loss && k % c_.check_every == 0;
        }
        store(k);
        end(reason, k);
    }

  private:
    __device__ bool leads() const { return threadIdx.x == 0 && first_block(); }
    __device__ bool first_block() const { return !kShared || group_.rank() == 0; }

    __device__ void end(FitEnd reason, int64_t steps) const {
        if (!leads()) return;
        c_.ends[m_] = reason;
        c_.steps[m_] = steps;
    }

    template <typename F>
    __device__ void each_parameter(const F& f) const {
        mclnf::each_parameter(net_, f);
    }
    // What of a parameter a step changes.
    struct Numbers {
        S p, m, v;
    };
    // write(t, number in a module's share, number in the padded parameters, what `read` gave for it) for rows
    // of a layer of tensor t. Four of a thread's are read before the first is written, so that they come from
    // global memory in one wait.
    template <typename R, typename W>
    __device__ void by_fours(int t, int rows, int first, int begin, const R& read, const W& write) const {
        const FitLayer& layer = net_.layer[t / 2];
        const FitTeam team = FitTeam::all();
        for (int r0 = team.warp(); r0 < rows; r0 += 4 * team.warps())
            for (int o = team.lane(); o < layer.out; o += 32) {
                Numbers numbers[4];
                MCLNF_UNROLL
                for (int n = 0; n < 4; ++n) {
                    const int r = r0 + n * team.warps();
                    if (r < rows)
                        numbers[n] = read(t, first + r * layer.out + o, begin + r * layer.stride + o);
                }
                MCLNF_UNROLL
                for (int n = 0; n < 4; ++n) {
                    const int r = r0 + n * team.warps();
                    if (r < rows)
                        write(t, first + r * layer.out + o, begin + r * layer.stride + o, numbers[n]);
                }
            }
    }
    // Where this module's share of a tensor begins.
    __device__ int64_t share(int t) const { return m_ * share_of(net_, t); }

    __device__ void clear() const {
        if (!first_block()) return;
        for (int64_t i = threadIdx.x; i < c_.logs; i += blockDim.x) c_.losses[i * c_.modules + m_] = S(NAN);
        if (leads()) c_.checked[m_] = NAN;
        for (int s = 0; s < c_.snapshots; ++s)
            each_parameter([&](int t, int i, int) { copy(s, t)[i] = S(NAN); });
    }
    __device__ S* copy(int s, int t) const { return c_.copies[s * 2 * net_.layers + t] + share(t); }

    __device__ bool take_samples() {
        const int64_t begin = c_.offsets ? c_.offsets[m_] : m_ * c_.rows;
        batch_.samples = c_.offsets ? c_.offsets[m_ + 1] - begin : c_.rows;
        batch_.x = c_.x + (c_.offsets ? begin * (kRays ? 3 : net_.in_dim) : 0);
        batch_.target = c_.target + begin * (kRays ? 3 : net_.out_dim);
        batch_.directions = kRays ? c_.rays.directions + 3 * begin : nullptr;
        batch_.view = kRays && c_.rays.view ? c_.rays.view + (net_.in_dim - 3) * begin : nullptr;
        batch_.weight = c_.weight ? c_.weight + begin : nullptr;
        return batch_.samples >= 1 && batch_.samples <= kMaxDrawNumber &&
               (!c_.offsets || (begin >= 0 && begin + batch_.samples <= c_.rows));
    }

    __device__ void load() const {
        each_parameter([&](int t, int i, int at) {
            const FitTensor<S>& tensor = c_.tensors[t];
            const int64_t place = share(t) + i;
            mem_.params[at] = operand(t, i, tensor.p[place]);
            if constexpr (kShared) {
                if (first_block())
                    group_.load(at,
                                t < c_.frozen      ? kFitStays
                                : is_operand(t, i) ? kFitRounded
                                                   : kFitPlain,
                                mem_.params[at], tensor.p[place], tensor.m ? tensor.m[place] : S(0),
                                tensor.v ? tensor.v[place] : S(0),
                                tensor.fisher ? tensor.fisher[place] : S(0),
                                tensor.anchor ? tensor.anchor[place] : S(0));
                return;
            }
            if (!mem_.m) return;
            mem_.m[at] = tensor.m[share(t) + i];
            mem_.v[at] = tensor.v[share(t) + i];
        });
    }
    // Number i of tensor t as products take it: of a layer's features and biases as it is.
    __device__ bool is_operand(int t, int i) const {
        const FitLayer& layer = net_.layer[t / 2];
        return kRounded && t > 0 && t % 2 == 0 && i < layer.prev * layer.out;
    }
    __device__ S operand(int t, int i, S value) const {
        return is_operand(t, i) ? FitLayers<S, kPrecision>::rounded(value) : value;
    }
    __device__ S param(int t, int i, int at) const {
        return kRounded ? c_.tensors[t].p[share(t) + i] : mem_.params[at];
    }
    __device__ void store(int64_t k) const {
        if (!first_block()) return;
        each_parameter([&](int t, int i, int at) {
            const FitTensor<S>& tensor = c_.tensors[t];
            if constexpr (kShared) {
                tensor.p[share(t) + i] = group_.p(k)[at];
                if (!tensor.m) return;
                tensor.m[share(t) + i] = group_.m(k)[at];
                tensor.v[share(t) + i] = group_.v(k)[at];
                return;
            }
            if (!kRounded) tensor.p[share(t) + i] = mem_.params[at];
            if (!mem_.m) return;
            tensor.m[share(t) + i] = mem_.m[at];
            tensor.v[share(t) + i] = mem_.v[at];
        });
    }

    __device__ void take_batch(int64_t k, int64_t row) {
        batch_.rule = c_.rule;
        batch_.size = c_.rule == kDrawWhole ? batch_.samples : c_.batch;
        batch_.counter = draw_counter(c_.seed, c_.task, c_.numbers[m_], k);
        batch_.place = c_.rule == kDrawEven ? window_place(batch_.counter) : 0;
        const int64_t drawn = (row * c_.modules + m_) * c_.batch;
        batch_.ids = c_.rule == kDrawGiven ? c_.ids + drawn : nullptr;
        batch_.ids_weight = c_.ids_weight ? c_.ids_weight + drawn : nullptr;
        batch_.jitter = c_.rays.jitter;
        if constexpr (kGuided) guide_.draw(batch_, k, row == 0);
    }

    __device__ void take_all() {
        batch_.rule = kDrawWhole;
        batch_.size = batch_.samples;
        batch_.ids_weight = nullptr;
        batch_.jitter = batch_.squared = batch_.scored = false;
    }

    // Makes step k with the gradients and the error of its batch; false if the module ends before it.
    __device__ bool step(int64_t k, double error) {
        StepFactors<S> factors = c_.factors;
        factors.rate = c_.rates[k].rate;
        factors.floor = c_.rates[k].floor;
        const bool adam = c_.adam && k >= c_.sgd_steps, trust = factors.lam != S(0);
        S gradient = S(0), pull = S(0);
        if constexpr (kShared) {
            step_together(k, factors, adam);
            const FitLargest<S> most = group_.take_largest();
            gradient = most.gradient;
            pull = most.pull;
            error = group_.error();
        } else {
            each_parameter([&](int t, int i, int at) {
                if (t < c_.frozen) return;
                gradient = larger(gradient, mem_.grads[at]);
                if (trust) pull = larger(pull, pulled_by(factors, S(0), t, i, at));
            });
        }
        if constexpr (kGuided)
            if (!guide_.finish_scores(batch_)) gradient = S(INFINITY);
        const double loss = loss_of_block(error, gradient, pull);
        log(k + 1, loss);
        if (!std::isfinite(loss) || !(gradient + pull <= kMost<S>) ||
            !bounded_step(factors, adam, gradient + pull, kMost<S>))
            return false;
        if constexpr (kShared) {
            copy_fours(mem_.params, group_.operands(), net_.values);
            return true;
        }
        const auto read = [&](int t, int i, int at) {
            const FitTensor<S>& tensor = c_.tensors[t];
            const int64_t place = share(t) + i;
            Numbers n{kRounded ? tensor.p[place] : mem_.params[at], S(0), S(0)};
            if (adam) {
                n.m = mem_.m ? mem_.m[at] : tensor.m[place];
                n.v = mem_.m ? mem_.v[at] : tensor.v[place];
            }
            return n;
        };
        const auto make = [&](int t, int i, int at, Numbers n) {
            const FitTensor<S>& tensor = c_.tensors[t];
            const int64_t place = share(t) + i;
            const S g = trust ? pulled_by(factors, mem_.grads[at], t, i, at) : mem_.grads[at];
            if (adam) {
                n.p = adam_step(factors, n.p, g, n.m, n.v);
                (mem_.m ? mem_.m[at] : tensor.m[place]) = n.m;
                (mem_.m ? mem_.v[at] : tensor.v[place]) = n.v;
            } else {
                n.p = sgd_step(factors, n.p, g);
            }
            if (kRounded) tensor.p[place] = n.p;
            mem_.params[at] = operand(t, i, n.p);
        };
        for (int t = c_.frozen; t < 2 * net_.layers; ++t) {
            const FitLayer& layer = net_.layer[t / 2];
            if (t % 2 == 1) {
                by_fours(t, 1, 0, layer.bias, read, make);
                continue;
            }
            by_fours(t, layer.prev, 0, layer.weight, read, make);
            by_fours(t, layer.encoded, layer.prev * layer.out, layer.skip_weight(), read, make);
        }
        if constexpr (kGuided) guide_.take_in(batch_);
        return true;
    }
    __device__ S pulled_by(const StepFactors<S>& factors, S g, int t, int i, int at) const {
        const FitTensor<S>& tensor = c_.tensors[t];
        return pulled(factors, g, param(t, i, at), tensor.fisher[share(t) + i], tensor.anchor[share(t) + i]);
    }
    // Step k by the blocks of a group, which they take if its loss and its largest numbers say so.
    __device__ void step_together(int64_t k, const StepFactors<S>& factors, bool adam) const {
        const int shares = group_.shares(batch_.size);
        const auto round = [](S p) { return FitLayers<S, kPrecision>::rounded(p); };
        group_.meet();
        group_.put_largest(group_.make_step(k, factors, adam, shares, round));
        group_.add_errors(shares);
        group_.meet();
    }

    // The mean of the batch from the threads' errors, added in one order, and the largest of the block. A sum
    // that the dtype does not hold is infinite, as where it is made in that dtype. A barrier: what all
    // threads have read before it may be written behind it.
    __device__ double loss_of_block(double error, S& gradient, S& pull) const {
        for (int by = 16; by > 0; by /= 2) {
            error += __shfl_xor_sync(0xffffffffu, error, by);
            gradient = larger(gradient, __shfl_xor_sync(0xffffffffu, gradient, by));
            pull = larger(pull, __shfl_xor_sync(0xffffffffu, pull, by));
        }
        const int warp = static_cast<int>(threadIdx.x) / 32;
        if (threadIdx.x % 32 == 0) {
            mem_.errors[warp] = error;
            mem_.largest[warp] = gradient;
            mem_.largest[kFitMostWarps + warp] = pull;
        }
        __syncthreads();
        double total = 0;
        for (int w = 0; w < FitTeam::all().warps(); ++w) {
            total += mem_.errors[w];
            gradient = larger(gradient, mem_.largest[w]);
            pull = larger(pull, mem_.largest[kFitMostWarps + w]);
        }
        __syncthreads();
        if (total > kMost<S>) return INFINITY;
        return total * static_cast<double>(sweep_.scale_of(batch_));
    }

    __device__ void log(int64_t steps, double loss) const {
        const int64_t place = place_of(c_.log_at, c_.logs, steps);
        if (place >= 0 && leads()) c_.losses[place * c_.modules + m_] = static_cast<S>(loss);
    }
    __device__ void copy_params(int64_t steps) const {
        const int64_t place = place_of(c_.snapshot_at, c_.snapshots, steps);
        if (place < 0) return;
        if (!first_block()) return;
        each_parameter([&](int t, int i, int at) {
            copy(static_cast<int>(place), t)[i] = kShared ? group_.p(steps)[at] : param(t, i, at);
        });
    }
    // Whether the loss over all samples has come down to the module's target.
    __device__ bool at_target(double error) {
        if constexpr (kShared) {
            group_.meet();
            group_.add_errors(group_.shares(batch_.size));
            group_.meet();
            error = group_.error();
        }
        S nothing = S(0), none = S(0);
        const double loss = loss_of_block(error, nothing, none);
        if (leads()) c_.checked[m_] = loss;
        return loss <= c_.stop_loss[m_];
    }

    const FitCall<S>& c_;
    const FitNet& net_;
    const FitMemory<S>& mem_;
    FitSweep<S, kPrecision, kRays, kGuided> sweep_;
    FitGuide<S> guide_;
    FitGroup<S> group_;
    int64_t m_ = 0;
    FitBatch<S> batch_ = {};
};

}  // namespace mclnf

// Several blocks with one module. Each forms the gradients of some shares of a step's batch (plan.h) and
// writes them to global memory; they meet; each adds a slice of the parameters over all shares, in the
// shares' order, and makes the optimizer's step on it; they meet again, and each reads all new parameters.
// Which block has which share or slice shows in no sum. Parameters and moments have two places that steps
// write in turn, so that a step that leaves numbers that are not finite, which all blocks learn when they
// meet, is not taken.
//
// A block alone takes the same way if its shares are longer than a tile: it adds the gradients of one after
// the other in the place of the first.
//
// Blocks that meet must run at the same time: the launch is one of blocks together (cuda/launch.h).
#pragma once

#include "call.h"
#include "math/bank_step.h"
#include "numbers.h"

namespace mclnf {

// What becomes of a number of the padded parameters: padding and frozen layers stay.
enum FitKind : unsigned char { kFitStays = 0, kFitPlain = 1, kFitRounded = 2 };

struct FitSpan {
    int64_t from, to;
};

// Of gradients, and of pulls by a trust region.
template <typename S>
struct FitLargest {
    S gradient, pull;
};

// to[i] = from[i] for i < count, a multiple of four, by the threads of a block. Sixteen of a thread's are
// read before the first is written, so that they come from global memory in one wait.
template <typename S>
__device__ inline void copy_fours(S* to, const S* from, int count) {
    const int threads = FitTeam::all().threads;
    for (int begin = static_cast<int>(threadIdx.x) * 4; begin < count; begin += 16 * threads) {
        Chunk<S, 4> four[4];
        MCLNF_UNROLL
        for (int n = 0; n < 4; ++n)
            if (begin + 4 * n * threads < count) four[n] = read_chunk<4>(from + begin + 4 * n * threads);
        MCLNF_UNROLL
        for (int n = 0; n < 4; ++n)
            if (begin + 4 * n * threads < count) write_chunk(to + begin + 4 * n * threads, four[n]);
    }
}

// from[0] + from[stride] + ..., added in this order; eight are read at once. What is added behind the last is
// -0, which changes no sum.
template <typename T>
__device__ inline T sum_of_parts(const T* from, int64_t stride, int count) {
    T sum = from[0];
    for (int s = 1; s < count; s += 8) {
        T some[8];
        MCLNF_UNROLL
        for (int n = 0; n < 8; ++n) some[n] = s + n < count ? from[(s + n) * stride] : T(-0.0);
        MCLNF_UNROLL
        for (int n = 0; n < 8; ++n) sum += some[n];
    }
    return sum;
}

template <typename S>
class FitGroup {
  public:
    __device__ explicit FitGroup(const FitCall<S>& call) : c_(call) {}

    __device__ int rank() const { return static_cast<int>(blockIdx.x) % c_.group; }

    // Puts what does not change to zero. Before the first module.
    __device__ void begin(int64_t* module) const {
        if (threadIdx.x == 0) module[1] = 0;
        if (rank() != 0) return;
        for (int i = static_cast<int>(threadIdx.x); i < c_.net.values; i += FitTeam::all().threads) {
            kinds()[i] = kFitStays;
            operands()[i] = S(0);
        }
    }

    // Puts the next module that waits into module[0]. By one thread.
    __device__ void take_module(int64_t* module) const {
        // Two places in turn: a block may still read the last one when the first is at the next.
        int64_t* const place = meeting().module + (module[1]++ & 1);
        if (rank() == 0) *place = atomicAdd(c_.next, 1);
        arrive_and_wait();
        module[0] = *place;
    }

    // The samples of a share of a batch; none behind the last share.
    __device__ FitSpan span(int64_t size, int share) const {
        const FitCut cut = fit_cut(size, c_.plan.points, c_.rays.bins);
        const int64_t from = share * cut.samples, to = from + cut.samples;
        return {from < size ? from : size, to < size ? to : size};
    }
    // Shares of which the errors and gradients are in memory: of a block alone one, to which it adds all.
    __device__ int shares(int64_t size) const {
        return c_.group == 1 ? 1 : fit_cut(size, c_.plan.points, c_.rays.bins).shares;
    }

    // Writes the error and, if they are not null, the gradients of a share to the group's memory.
    __device__ void keep(const S* grads, int share, double error) const {
        const int thread = static_cast<int>(threadIdx.x);
        const bool add = c_.group == 1 && share > 0;
        const int place = c_.group == 1 ? 0 : share;
        double& kept = errors()[place * kFitMostThreads + thread];
        kept = add ? kept + error : error;
        if (!grads) return;
        S* const to = part(place);
        if (add)
            for (int i = thread; i < c_.net.values; i += FitTeam::all().threads) to[i] += grads[i];
        else
            copy_fours(to, grads, c_.net.values);
    }

    // Waits for the blocks of the group: what they have written before is seen behind it.
    __device__ void meet() const {
        __syncthreads();
        if (threadIdx.x == 0) arrive_and_wait();
        __syncthreads();
    }

    // A number of the module's state, by the first block: `at` of the padded parameters.
    __device__ void load(int at, FitKind kind, S operand, S p, S m, S v, S fisher, S anchor) const {
        kinds()[at] = kind;
        operands()[at] = operand;
        for (int64_t k = 0; k < 2; ++k) {
            this->p(k)[at] = p;
            this->m(k)[at] = m;
            this->v(k)[at] = v;
        }
        array(7)[at] = fisher;
        array(8)[at] = anchor;
    }
    // Before step k.
    __device__ S* p(int64_t k) const { return array(1 + static_cast<int>(k & 1)); }
    __device__ S* m(int64_t k) const { return array(3 + static_cast<int>(k & 1)); }
    __device__ S* v(int64_t k) const { return array(5 + static_cast<int>(k & 1)); }

    // Step k of the block's slice, by the gradients of all shares, after they have met. Returns the largest
    // gradient and pull of the thread's numbers. round(p) is an operand of products.
    template <typename F>
    __device__ FitLargest<S> make_step(int64_t k, const StepFactors<S>& factors, bool adam, int shares,
                                       const F& round) const {
        const S* const gradients = part(0);
        const int threads = FitTeam::all().threads;
        FitLargest<S> most = {S(0), S(0)};
        for (int i = rank() * threads + static_cast<int>(threadIdx.x); i < c_.net.values;
             i += c_.group * threads) {
            const unsigned char kind = kinds()[i];
            if (kind == kFitStays) continue;
            S g = sum_of_parts(gradients + i, stride(), shares), p = this->p(k)[i];
            most.gradient = larger(most.gradient, g);
            if (factors.lam != S(0)) {
                const S fisher = array(7)[i], anchor = array(8)[i];
                most.pull = larger(most.pull, pulled(factors, S(0), p, fisher, anchor));
                g = pulled(factors, g, p, fisher, anchor);
            }
            if (c_.adam) {
                S m = this->m(k)[i], v = this->v(k)[i];
                if (adam) p = adam_step(factors, p, g, m, v);
                this->m(k + 1)[i] = m;
                this->v(k + 1)[i] = v;
            }
            if (!adam) p = sgd_step(factors, p, g);
            this->p(k + 1)[i] = p;
            operands()[i] = kind == kFitRounded ? round(p) : p;
        }
        return most;
    }
    // The sum of all shares' errors, a part of which each thread of a block reads after they have met again.
    __device__ void add_errors(int shares) const {
        const int thread = static_cast<int>(threadIdx.x);
        if (rank() == c_.group - 1)
            sums_of_errors()[thread] = sum_of_parts(errors() + thread, kFitMostThreads, shares);
    }
    __device__ double error() const { return sums_of_errors()[static_cast<int>(threadIdx.x)]; }

    // Of the threads' largest gradients and pulls those of warps, and, after they have met, a thread's part
    // of those of all.
    __device__ void put_largest(FitLargest<S> most) const {
        for (int by = 16; by > 0; by /= 2) {
            most.gradient = larger(most.gradient, __shfl_xor_sync(0xffffffffu, most.gradient, by));
            most.pull = larger(most.pull, __shfl_xor_sync(0xffffffffu, most.pull, by));
        }
        const FitTeam team = FitTeam::all();
        if (team.lane() == 0) largest()[rank() * team.warps() + team.warp()] = most;
    }
    __device__ FitLargest<S> take_largest() const {
        FitLargest<S> most = {S(0), S(0)};
        const FitTeam team = FitTeam::all();
        for (int w = team.thread(); w < c_.group * team.warps(); w += team.threads) {
            most.gradient = larger(most.gradient, largest()[w].gradient);
            most.pull = larger(most.pull, largest()[w].pull);
        }
        return most;
    }
    // The parameters of which the last step is made.
    __device__ S* operands() const { return array(0); }

  private:
    __device__ FitMeeting& meeting() const { return c_.meetings[blockIdx.x / c_.group]; }
    // By one thread. The count of arrivals never goes back, so that nobody has to know of an earlier meeting.
    __device__ void arrive_and_wait() const {
        const unsigned long long blocks = static_cast<unsigned long long>(c_.group);
        unsigned long long* const arrivals = &meeting().arrivals;
        __threadfence();
        const unsigned long long before = atomicAdd(arrivals, 1ull);
        wait_for(arrivals, (before / blocks + 1) * blocks);
        __threadfence();
    }

    // In global memory: maxima, sums of errors, errors of shares and threads, kinds, the arrays of the state
    // (operands, then p, m and v twice, fisher, anchor), the gradients of shares.
    __device__ unsigned char* base() const {
        return c_.groups + static_cast<int64_t>(blockIdx.x / c_.group) * c_.group_bytes;
    }
    __device__ FitLargest<S>* largest() const { return reinterpret_cast<FitLargest<S>*>(base()); }
    __device__ double* sums_of_errors() const {
        return reinterpret_cast<double*>(base() + kFitGroupHead - kFitMostThreads * 8);
    }
    __device__ double* errors() const { return reinterpret_cast<double*>(base() + kFitGroupHead); }
    __device__ unsigned char* kinds() const { return base() + kFitGroupState; }
    __device__ int64_t stride() const { return in_sixteens(c_.net.values * int64_t(sizeof(S))) / sizeof(S); }
    __device__ S* array(int i) const {
        return reinterpret_cast<S*>(kinds() + in_sixteens(c_.net.values)) + i * stride();
    }
    __device__ S* part(int share) const { return array(kFitGroupArrays + share); }

    const FitCall<S>& c_;
};

}  // namespace mclnf

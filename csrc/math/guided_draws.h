// Fisher-guided draws: even draws (draws.h) of samples in the order of a curve through them, more of them
// where scores are high. Neighbors on the curve make blocks that share a score, a running mean. All in double
// and in one order of sums, so that a density means the same ids on every device
// (mclnf_fast/ops/bank_fit/guided.py has the definition in PyTorch).
#pragma once

#include "draws.h"

namespace mclnf {

// n samples in blocks of `size`, the last of what is left.
struct ScoreBlocks {
    int64_t n, size;

    MCLNF_HD MCLNF_INLINE int64_t count() const { return (n + size - 1) / size; }
    MCLNF_HD MCLNF_INLINE int64_t samples(int64_t block) const {
        const int64_t left = n - block * size;
        return left < size ? left : size;
    }
};

// One thread with all of the work. On CUDA the threads of a block share it: each(count, f) calls f(i) for i
// below count and ends when all are done, once(f) gives all of them what one has computed.
struct SingleThread {
    template <typename F>
    MCLNF_INLINE void each(int64_t count, const F& f) const {
        for (int64_t i = 0; i < count; ++i) f(i);
    }
    template <typename F>
    MCLNF_INLINE double once(const F& f) const {
        return f();
    }
};

// The probability of each block, p = mix sqrt(q) / sum sqrt(q) + (1 - mix) / n over its samples, and the
// running sum of it. A score below 0 is unknown, and counts as the mean of the others. False if none is
// known; nothing is to be read then.
MCLNF_TEAM_CALLS
template <typename Team>
MCLNF_HD MCLNF_INLINE bool score_density(const Team& team, const double* scores, const ScoreBlocks& blocks,
                                         double mix, double* mass, double* sum) {
    const int64_t count = blocks.count();
    team.each(count, [&](int64_t b) {
        mass[b] = scores[b] >= 0 ? sqrt(scores[b]) * static_cast<double>(blocks.samples(b)) : -1.0;
    });
    const double mean = team.once([&] {
        double known = 0, samples = 0;
        for (int64_t b = 0; b < count; ++b) {
            if (!(mass[b] >= 0)) continue;
            known += mass[b];
            samples += static_cast<double>(blocks.samples(b));
        }
        return samples == 0 ? -1.0 : known / samples;
    });
    if (mean < 0) return false;
    team.each(count, [&](int64_t b) {
        if (!(mass[b] >= 0)) mass[b] = mean * static_cast<double>(blocks.samples(b));
    });
    const double total = team.once([&] {
        double all = 0;
        for (int64_t b = 0; b < count; ++b) all += mass[b];
        return all;
    });
    const double n = static_cast<double>(blocks.n);
    team.each(count, [&](int64_t b) {
        const double even = static_cast<double>(blocks.samples(b)) / n;
        mass[b] = even + mix * ((total > 0 ? mass[b] / total : even) - even);
    });
    const double running = team.once([&] {
        double all = 0;
        for (int64_t b = 0; b < count; ++b) sum[b] = all += mass[b];
        return all;
    });
    // By the sum as it was rounded: the last running sum is then exactly 1.
    team.each(count, [&](int64_t b) {
        mass[b] /= running;
        sum[b] /= running;
    });
    return true;
}

// The first block whose running sum is above u, or the last one.
MCLNF_HD MCLNF_INLINE int64_t block_at(double u, const double* sum, int64_t count) {
    int64_t low = 0, high = count - 1;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (sum[middle] > u)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// The place on the curve at u, which lies in a block whose running sum is the first above it.
MCLNF_HD MCLNF_INLINE int64_t place_in_block(double u, int64_t block, const ScoreBlocks& blocks, double mass,
                                             double sum) {
    const int64_t samples = blocks.samples(block);
    double share = (u - (sum - mass)) / mass;
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    const int64_t inside = static_cast<int64_t>(share * static_cast<double>(samples));
    return block * blocks.size + (inside < samples ? inside : samples - 1);
}

// 1 / (n p) of a block's samples: what the loss of each counts, so that the mean over draws is the mean over
// all.
MCLNF_HD MCLNF_INLINE double draw_weight(int64_t block, const ScoreBlocks& blocks, double mass) {
    return static_cast<double>(blocks.samples(block)) / (static_cast<double>(blocks.n) * mass);
}

// A block's score after `count` new ones with this sum, as if they had come one by one; left: (1 -
// smooth)^count.
MCLNF_HD MCLNF_INLINE double mixed_score(double score, double sum, int64_t count, double left) {
    const double mean = sum / static_cast<double>(count);
    // A first score counts whole: it would be mixed with the -1 that stands for none.
    return score < 0 ? mean : score + (1.0 - left) * (mean - score);
}

// A block's score after those of `count` draws in it.
template <typename S>
MCLNF_HD MCLNF_INLINE double block_score(double score, const S* scores, int64_t count, double smooth) {
    const double keep = 1.0 - smooth;
    double sum = 0, left = 1;
    for (int64_t i = 0; i < count; ++i) {
        sum += static_cast<double>(scores[i]);
        left *= keep;
    }
    return mixed_score(score, sum, count, left);
}

}  // namespace mclnf

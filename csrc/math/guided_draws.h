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

// The probability of each block, p = mix sqrt(q) / sum sqrt(q) + (1 - mix) / n over its samples, and the
// running sum of it. A score below 0 is unknown, and counts as the mean of the others. False, with nothing
// written, if none is known.
MCLNF_HD MCLNF_INLINE bool score_density(const double* scores, const ScoreBlocks& blocks, double mix,
                                         double* mass, double* sum) {
    const int64_t count = blocks.count();
    double known = 0, samples = 0;
    for (int64_t b = 0; b < count; ++b) {
        if (!(scores[b] >= 0)) continue;
        known += sqrt(scores[b]) * static_cast<double>(blocks.samples(b));
        samples += static_cast<double>(blocks.samples(b));
    }
    if (samples == 0) return false;
    const double mean = known / samples, n = static_cast<double>(blocks.n);
    double total = 0;
    for (int64_t b = 0; b < count; ++b) {
        mass[b] = (scores[b] >= 0 ? sqrt(scores[b]) : mean) * static_cast<double>(blocks.samples(b));
        total += mass[b];
    }
    double running = 0;
    for (int64_t b = 0; b < count; ++b) {
        const double even = static_cast<double>(blocks.samples(b)) / n;
        mass[b] = even + mix * ((total > 0 ? mass[b] / total : even) - even);
        running += mass[b];
        sum[b] = running;
    }
    // By the sum as it was rounded: the last running sum is then exactly 1.
    for (int64_t b = 0; b < count; ++b) {
        mass[b] /= running;
        sum[b] /= running;
    }
    return true;
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

}  // namespace mclnf

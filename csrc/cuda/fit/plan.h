// Where a block of `bank_fit` keeps what its module needs, how many points it takes at once, and how the
// batch of a step is cut into shares. A function of the network, the batch and the device's memory, never of
// the number of modules: how a sum is cut must not depend on who else is learned. That decides only how many
// blocks a module has, which does not show in a sum.
#pragma once

#include <algorithm>
#include <cstdint>

#include "math/common.h"
#include "names.h"

namespace mclnf {

// Threads of a block, which has one module at a time: the most of one that has a multiprocessor to itself.
constexpr int kFitThreads = 128, kFitMostThreads = 256;
constexpr int kFitMostWarps = kFitMostThreads / 32;
constexpr int kFitMaxLayers = kMaxHiddenLayers + 1;

// Rows are padded so that four numbers are read at once, or to whole instructions of the tensor cores;
// padding is 0 and adds nothing.
MCLNF_HD constexpr int padded(int n, int by = 4) { return (n + by - 1) / by * by; }
// Between the rows of a matrix in shared memory: an odd multiple of four, so that eight neighboring rows lie
// in different banks.
constexpr int row_stride(int columns, int by = 4) {
    return padded(columns, by) % 8 == 0 ? padded(columns, by) + 4 : padded(columns, by);
}

// A layer in the block's copy of a module: weights [prev_rows + padded(encoded), stride], then the bias.
struct FitLayer {
    int prev, encoded;  // rows fed by the layer before (by the encoding, in layer 0) and, of a skip, by it
    int out, stride;
    int prev_rows, out_rows;  // of prev and out, padded
    int weight, bias;         // first number of each

    MCLNF_HD constexpr int skip_weight() const { return weight + prev_rows * stride; }
};

// What the plan depends on.
struct FitShape {
    int64_t values;  // of the padded parameters
    int64_t rows;    // of activations and derivatives: numbers per point
    int widest;      // layer
    int bytes;       // of a number
    bool adam;
    int64_t batch;  // points of a step; 0: a module's samples
};
struct FitLimits {
    int64_t block, multiprocessor;  // bytes of shared memory
};

struct FitPlan {
    int points;                                // of a tile
    bool params, grads, moments, activations;  // in shared memory; otherwise in global memory
    int64_t shared, workspace;                 // bytes of a block in each
    int blocks, threads;                       // blocks at once on a multiprocessor, threads of each

    // Everything but the moments, which a step reads once, is in shared memory: the kernel is compiled for
    // it.
    constexpr bool near() const { return params && grads && activations; }
};

constexpr int64_t kFitControl = 256;    // bytes of results of warps, at the beginning of shared memory
constexpr int64_t kFitReserved = 1024;  // bytes that a multiprocessor keeps of each block
constexpr int kFitLeastPoints = 32;     // eight threads with four points each are side by side
constexpr int kFitMostPoints = 256;
constexpr int kFitMostBlocks = 2;
static_assert(kFitMostBlocks * kFitThreads <= kFitMostThreads, "255 registers per thread");

MCLNF_HD constexpr int64_t in_sixteens(int64_t bytes) { return (bytes + 15) / 16 * 16; }

// Bytes of an array of the activations: `points` of them per row and four that keep rows in different banks.
constexpr int64_t fit_activation_bytes(const FitShape& s, int points) {
    return in_sixteens(s.rows * (points + 4) * s.bytes);
}

constexpr FitPlan fit_candidate(const FitShape& s, const FitLimits& limits, int points, bool params,
                                bool grads, bool moments, bool activations) {
    const int64_t values = in_sixteens(s.values * s.bytes), tile = fit_activation_bytes(s, points);
    FitPlan plan{points, params, grads, moments && s.adam, activations, 0, 0, 0, 0};
    plan.shared = kFitControl + in_sixteens(4 * points) + in_sixteens(s.bytes * points);
    for (const bool in : {params, grads}) (in ? plan.shared : plan.workspace) += values;
    (activations ? plan.shared : plan.workspace) += tile;
    if (plan.moments) plan.shared += 2 * values;
    if (plan.shared <= limits.block)
        plan.blocks = static_cast<int>(
            std::min<int64_t>(kFitMostBlocks, limits.multiprocessor / (plan.shared + kFitReserved)));
    plan.threads = plan.blocks > 1 ? kFitThreads : kFitMostThreads;
    return plan;
}

// Where the rule `guided` keeps its numbers in a block's global memory: bytes behind what is streamed there.
// One step in sixteen works on most of them, so that they take no shared memory from the others.
struct FitGuidePlan {
    int64_t inverse, squares;  // like the padded parameters: of 1 / F, and of the batch's Fisher
    int64_t terms;             // of a layer's scores: a row per input, like those of the activations
    int64_t ids, blocks;       // of the draws, in 64 bits
    int64_t weights, scores;   // of the draws
    int64_t mass, sum;         // of the blocks, in float64
    int64_t bytes;
};

// inputs: of the layer that has most; blocks: of a module; with 0 none has a score.
constexpr FitGuidePlan fit_guide_plan(const FitShape& s, int points, int inputs, int64_t batch,
                                      int64_t blocks) {
    FitGuidePlan plan{};
    const auto take = [&](int64_t count, int64_t bytes) {
        const int64_t begin = plan.bytes;
        plan.bytes += in_sixteens(count * bytes);
        return begin;
    };
    const bool scored = blocks > 0;
    plan.inverse = take(scored ? s.values : 0, s.bytes);
    plan.squares = take(scored ? s.values : 0, s.bytes);
    plan.terms = take(scored ? int64_t(inputs) * (points + 4) : 0, s.bytes);
    plan.ids = take(batch, 8);
    plan.blocks = take(scored ? batch : 0, 8);
    plan.weights = take(scored ? batch : 0, s.bytes);
    plan.scores = take(scored ? batch : 0, s.bytes);
    plan.mass = take(blocks, 8);
    plan.sum = take(blocks, 8);
    return plan;
}

// Points of a tile for which each thread has 32 results of a product: of wide layers fewer.
constexpr int fit_points(const FitShape& s) {
    int points = kFitLeastPoints;
    while (points < kFitMostPoints && points * 2 * s.widest * s.bytes <= 32 * kFitThreads * 4 &&
           (s.batch == 0 || points < s.batch))
        points *= 2;
    return points;
}

// Two blocks on a multiprocessor come before large tiles, since one computes while the other waits, and large
// tiles before moments in shared memory. What does not fit is streamed through the second-level cache: first
// the moments, then the gradients, then the parameters.
constexpr FitPlan fit_plan(const FitShape& s, const FitLimits& limits) {
    for (int blocks = 2; blocks >= 1; --blocks)
        for (int points = fit_points(s); points >= kFitLeastPoints; points /= 2)
            for (const bool moments : {true, false}) {
                const FitPlan plan = fit_candidate(s, limits, points, true, true, moments, true);
                if (plan.blocks >= blocks) return plan;
            }
    for (int places = 2; places >= 0; --places)
        for (int points = fit_points(s); points >= kFitLeastPoints; points /= 2) {
            const FitPlan plan = fit_candidate(s, limits, points, places == 2, false, false, places >= 1);
            if (plan.blocks >= 1) return plan;
        }
    return {};
}

// The shares of a step's batch: runs of whole tiles (of rays: of the groups of whole rays that a tile holds,
// or of whole rays that need several tiles). Tiles of a share are added one after the other, and shares
// likewise.
struct FitCut {
    int64_t samples;  // of a share; the last may have fewer
    int length;       // tiles, or rays of several tiles
    int shares;
};

// A share's gradients pass through the second-level cache if blocks form them apart: few enough shares that
// they stay in it, and as many as there are multiprocessors.
constexpr int kFitMostShares = 128;
// Of rays that need several tiles, which one block adds by shares too: less, and the parameters' size weighs.
constexpr int kFitLeastRays = 4;

// By tiles n of the batch, with tiles of `points` points and `bins` intervals per ray (0: samples are
// points):
//   n <= 128:  n shares of one tile: the sum is that of a block that adds tile after tile
//   n > 128:   ceil(n / L) shares of L = ceil(n / 128) tiles
// If a ray needs several tiles, n counts rays, and L is at least 4.
MCLNF_HD constexpr FitCut fit_cut(int64_t size, int points, int bins) {
    const int64_t together = bins == 0 ? points : (bins < points ? points / bins : 1);
    const int64_t count = (size + together - 1) / together;
    int64_t length = (count + kFitMostShares - 1) / kFitMostShares;
    if (bins > points && length < kFitLeastRays) length = kFitLeastRays;
    return {length * together, static_cast<int>(length), static_cast<int>((count + length - 1) / length)};
}

// Blocks that share a module. Modules wait for such a group as they otherwise wait for a block.
struct FitGroups {
    int blocks;      // of a group; 1: each block has a module of its own, and `groups` is not decided here
    int64_t groups;  // at a time
    int64_t bytes;   // of global memory of a group; 0: a block alone adds tile after tile
};

constexpr int kFitGroupArrays = 9;  // of a module's state, beside the gradients of shares
// Maxima and sums of errors; with the errors of all shares and threads.
constexpr int64_t kFitGroupHead = (2 * kFitMostShares * kFitMostWarps + kFitMostThreads) * 8;
constexpr int64_t kFitGroupState = kFitGroupHead + int64_t(kFitMostShares) * kFitMostThreads * 8;
constexpr int64_t kFitGroupMost = int64_t(1) << 30;  // bytes of all groups
// What blocks lose in a step by meeting twice and by waiting for what they exchange: a guess. And what the
// second-level cache gives and takes per cycle, through which the gradients of all shares go once.
constexpr double kFitMeetingCycles = 8000, kFitCacheBytes = 3072;
constexpr int kFitMostRounds = 8;

constexpr int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How many blocks share a module if `processors` run `together` of them each, and a step has at most `size`
// samples. Modules may be learned in several rounds with larger groups in each: of all numbers of rounds that
// one which takes least, in cycles of a multiprocessor with 128 multiply-adds in each, 3 per parameter and
// point, that its blocks share. None of it shows in a sum.
constexpr FitGroups fit_groups(const FitShape& s, const FitPlan& plan, int64_t size, int bins,
                               int64_t modules, int64_t processors, int64_t together) {
    const FitCut cut = fit_cut(size, plan.points, bins);
    const int64_t values = in_sixteens(s.values * s.bytes), capacity = processors * together;
    // A module with fewer samples may have shorter shares, and more of them.
    const int64_t most = std::min<int64_t>(kFitMostShares, int64_t(cut.shares) * cut.length);
    const int64_t fixed = kFitGroupState + in_sixteens(s.values) + kFitGroupArrays * values,
                  bytes = fixed + most * values;
    const double share = 3.0 / 128 * static_cast<double>(s.values) * cut.length * std::max(plan.points, bins);
    const double exchange = 2.0 / kFitCacheBytes * static_cast<double>(cut.shares * values);
    const auto shares = [&](int64_t rounds, int64_t turns, int64_t blocks) {
        const double crowd = static_cast<double>(blocks) / static_cast<double>(processors);
        return static_cast<double>(rounds * turns) * share * std::max(crowd, 1.0);
    };
    double least = shares(ceil_of(modules, capacity), cut.shares, std::min(modules, capacity));
    FitGroups best{1, 0, cut.shares > 1 && cut.length > 1 ? fixed + values : 0};
    for (int64_t rounds = 1; rounds <= kFitMostRounds && rounds <= modules; ++rounds) {
        const int64_t groups = ceil_of(modules, rounds),
                      available = std::min<int64_t>(cut.shares, capacity / groups);
        if (available < 2 || groups * bytes > kFitGroupMost) continue;
        const int64_t turns = ceil_of(cut.shares, available), blocks = ceil_of(cut.shares, turns);
        const double cycles =
            shares(rounds, turns, groups * blocks) +
            static_cast<double>(rounds) * (kFitMeetingCycles + static_cast<double>(groups) * exchange);
        if (cycles >= least) continue;
        least = cycles;
        best = {static_cast<int>(blocks), groups, bytes};
    }
    return best;
}

}  // namespace mclnf

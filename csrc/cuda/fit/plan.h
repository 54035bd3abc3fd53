// Where a block of `bank_fit` keeps what its module needs, and how many points it takes at once. Host code
// alone, and a function of the network, the batch and the device's memory, never of the number of modules:
// how a sum is cut must not depend on who else is learned.
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

}  // namespace mclnf

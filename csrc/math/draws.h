// Which samples a module takes in a step: functions of the seed, the task, the module, the step and the
// draw's place in the batch, and of nothing else (mclnf_fast/ops/draws has the definition in PyTorch).
#pragma once

#include "philox.h"

namespace mclnf {

// Steps after which even draws have been everywhere. A permutation of them takes four counters.
constexpr int kDrawWindow = 16;

// What the counter's last byte separates: draws, and the permutations of the windows.
enum DrawStream : uint32_t { kDrawSamples = 0, kDrawWindows = 1 };

// The draws of one module in one step.
struct DrawCounter {
    PhiloxKey seed;
    uint32_t task;  // below 2^24
    uint32_t module, step;

    MCLNF_HD MCLNF_INLINE void words(DrawStream stream, uint32_t time, uint32_t block,
                                     uint32_t (&w)[4]) const {
        w[0] = block;
        w[1] = time;
        w[2] = module;
        w[3] = task << 8 | static_cast<uint32_t>(stream);
        philox(seed, w[0], w[1], w[2], w[3]);
    }
};

MCLNF_HD MCLNF_INLINE DrawCounter draw_counter(int64_t seed, int64_t task, int64_t module, int64_t step) {
    const uint64_t bits = static_cast<uint64_t>(seed);
    return {{static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)},
            static_cast<uint32_t>(task),
            static_cast<uint32_t>(module),
            static_cast<uint32_t>(step)};
}

constexpr int64_t kMaxDrawTask = (int64_t(1) << 24) - 1;
constexpr int64_t kMaxDrawNumber = (int64_t(1) << 32) - 1;  // of a module, a step or a sample

// One of n < 2^32 samples from 64 random bits, by the high word of a product: the remainder in its place
// would prefer small ids, and 32 bits would show beyond a million samples.
MCLNF_HD MCLNF_INLINE int64_t uniform_id(uint32_t high, uint32_t low, uint64_t n) {
    return static_cast<int64_t>((high * n + (low * n >> 32)) >> 32);
}

// Draws 2 block and 2 block + 1 of a step.
MCLNF_HD MCLNF_INLINE void uniform_pair(const DrawCounter& at, uint32_t block, uint64_t n, int64_t& first,
                                        int64_t& second) {
    uint32_t w[4];
    at.words(kDrawSamples, at.step, block, w);
    first = uniform_id(w[0], w[1], n);
    second = uniform_id(w[2], w[3], n);
}

// The place of a step in the permutation of its window: how many of the window's words are below its own, of
// equal ones those before it.
MCLNF_HD MCLNF_INLINE int window_place(const DrawCounter& at) {
    const int turn = static_cast<int>(at.step % kDrawWindow);
    uint32_t words[kDrawWindow];
    for (uint32_t block = 0; block < kDrawWindow / 4; ++block) {
        uint32_t w[4];
        at.words(kDrawWindows, at.step / kDrawWindow, block, w);
        for (int i = 0; i < 4; ++i) words[4 * block + i] = w[i];
    }
    uint32_t own = 0;
    for (int i = 0; i < kDrawWindow; ++i) own = i == turn ? words[i] : own;
    int place = 0;
    for (int i = 0; i < kDrawWindow; ++i) place += words[i] < own || (words[i] == own && i < turn);
    return place;
}

// Draw j of a batch that covers its samples like a grid: each lies in a stratum of its own, in the sixteenth
// of it that the step's place in the window gives, shifted by 32 random bits. In sixteenths of strata.
MCLNF_HD MCLNF_INLINE double even_part(int64_t j, int place, uint32_t bits) {
    return static_cast<double>(j * kDrawWindow + place) + bits * (1.0 / 4294967296.0);
}

// The one of n samples at such a part.
MCLNF_HD MCLNF_INLINE int64_t even_id(int64_t j, int place, uint32_t bits, int64_t n,
                                      double samples_per_part) {
    const int64_t id = static_cast<int64_t>(even_part(j, place, bits) * samples_per_part);
    return id < n ? id : n - 1;  // the product may round up to n
}

}  // namespace mclnf

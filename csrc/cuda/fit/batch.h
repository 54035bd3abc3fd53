// What a step of `bank_fit` takes.
#pragma once

#include "cuda/launch.h"
#include "math/draws.h"
#include "names.h"

namespace mclnf {

// The samples of a module, x [n, in_dim], target [n, out_dim], weight [n] or null, and which of them a step
// takes.
template <typename S>
struct FitBatch {
    const S *x, *target, *weight, *directions, *view;
    int64_t samples;
    int rule;
    int64_t size;
    int64_t from, to;  // what of it the block has in hand
    DrawCounter counter;
    int place;  // of kDrawEven
    const int64_t* ids;
    const S* ids_weight;
    bool jitter;           // of rays; its seed is the step
    bool squared, scored;  // the sweep also forms the batch's Fisher, and the scores of its samples

    // Draw j; `known` is false if there is no such sample.
    __device__ int64_t id(int64_t j, bool& known) const {
        known = true;
        if (rule == kDrawWhole) return j;
        if (rule == kDrawGiven) {
            const int64_t found = ids[j];
            known = found >= 0 && found < samples;
            return known ? found : 0;
        }
        if (rule == kDrawUniform) {
            int64_t first, second;
            uniform_pair(counter, static_cast<uint32_t>(j / 2), static_cast<uint64_t>(samples), first,
                         second);
            return j % 2 == 0 ? first : second;
        }
        uint32_t words[4];
        counter.words(kDrawSamples, counter.step, static_cast<uint32_t>(j / 4), words);
        uint32_t bits = words[0];
        for (int i = 1; i < 4; ++i) bits = j % 4 == i ? words[i] : bits;
        return even_id(j, place, bits, samples,
                       static_cast<double>(samples) / (static_cast<double>(kDrawWindow) * size));
    }
};

}  // namespace mclnf

// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011). A number depends on its key and counter alone, not on what was drawn before, so that any thread
// on any device draws the same, in any order.
#pragma once

#include "common.h"

namespace mclnf {

struct PhiloxKey {
    uint32_t low, high;
};

// Four words from a counter of four words, which they replace.
MCLNF_HD MCLNF_INLINE void philox(PhiloxKey key, uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * c0;
        const uint64_t b = static_cast<uint64_t>(0xCD9E8D57u) * c2;
        c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ key.low;
        c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ key.high;
        c1 = static_cast<uint32_t>(b);
        c3 = static_cast<uint32_t>(a);
        key.low += 0x9E3779B9u;
        key.high += 0xBB67AE85u;
    }
}

}  // namespace mclnf

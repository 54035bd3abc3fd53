// bf16 as memory holds it, the upper half of a float, and its conversions.
//
// Static and always inlined: a copy compiled for one instruction set must never
// be merged by the linker with another.
#pragma once

#include <cstdint>
#include <cstring>

namespace mclnf {

using Bf16 = uint16_t;

static inline __attribute__((always_inline)) float widen(Bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
// To nearest, ties to even; NaN stays NaN.
static inline __attribute__((always_inline)) Bf16 narrow(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return static_cast<Bf16>((x != x ? bits | 0x400000 : rounded) >> 16);
}

}  // namespace mclnf

// A module's parameters, one by one, by the threads of a block.
#pragma once

#include "layers.h"

namespace mclnf {

// f(tensor, number in a module's share of it, number in the padded parameters); a number is always the same
// thread's.
template <typename F>
__device__ inline void each_parameter(const FitNet& net, const F& f) {
    for (int l = 0; l < net.layers; ++l) {
        const FitLayer layer = net.layer[l];
        each_value(layer.prev, layer.out,
                   [&](int r, int o) { f(2 * l, r * layer.out + o, layer.weight + r * layer.stride + o); });
        each_value(layer.encoded, layer.out, [&](int r, int o) {
            f(2 * l, (layer.prev + r) * layer.out + o, layer.skip_weight() + r * layer.stride + o);
        });
        each_value(1, layer.out, [&](int, int o) { f(2 * l + 1, o, layer.bias + o); });
    }
}

// Numbers of a module in tensor t.
__device__ inline int64_t share_of(const FitNet& net, int t) {
    const FitLayer& layer = net.layer[t / 2];
    return static_cast<int64_t>(layer.out) * (t % 2 == 0 ? layer.prev + layer.encoded : 1);
}

}  // namespace mclnf

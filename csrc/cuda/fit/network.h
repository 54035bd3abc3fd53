// A network as the kernel of `bank_fit` takes it.
#pragma once

#include <algorithm>
#include <vector>

#include "call.h"
#include "net.h"
#include "tensor_products.h"

namespace mclnf {

// The padded layers of a network whose products but the first layer's have operands of this precision; rays:
// whether these are its samples.
inline FitNet fit_net(const Net& net, int precision, bool rays) {
    FitNet to{};
    to.layers = static_cast<int>(net.layers.size());
    to.in_dim = net.in_dim;
    to.out_dim = net.out_dim;
    to.encoded = net.encoded;
    to.width = to.layers > 1 ? net.layers[0].out : 0;
    to.activation = net.activation;
    to.output_activation = net.output_activation;
    to.pad = padding_of(precision);
    to.ray_rows = rays ? net.in_dim + 1 : 0;
    // A small positive value may round to 0 in fp16, and its derivative would be lost.
    to.in_place = derivative_in_value(net.activation) && precision != kFp16;
    to.w0 = net.w0;
    int64_t at = 0;
    for (size_t l = 0; l < net.layers.size(); ++l) {
        const Layer& layer = net.layers[l];
        FitLayer& padded_layer = to.layer[l];
        const int encoded = layer.skip ? layer.from_encoding() : 0, stride = row_stride(layer.out, to.pad);
        const int rows = padded(layer.from_prev, l == 0 ? 4 : to.pad);
        const int64_t bias = at + static_cast<int64_t>(rows + padded(encoded)) * stride;
        STD_TORCH_CHECK(bias + stride < (int64_t(1) << 30),
                        "bank_fit: a module has too many parameters for CUDA");
        padded_layer = {layer.from_prev,
                        encoded,
                        layer.out,
                        stride,
                        rows,
                        padded(layer.out, to.pad),
                        static_cast<int>(at),
                        static_cast<int>(bias)};
        at = bias + stride;
    }
    // The last layer's weights are read beyond their end.
    to.values = static_cast<int>(at) + (precision == kFp32 ? 0 : kTensorSlack);
    return to;
}

// The features of its encoding, in threads' shares.
inline std::vector<FitFeature> fit_features(const Net& net) {
    std::vector<FitFeature> features;
    int row = 0;
    for (const EncodingPart& part : net.parts) {
        if (part.kind == kSpherical) {
            features.push_back({kSpherical, part.start, row, part.option, 0.0});
            row += part.features();
            continue;
        }
        if (part.kind == kIdentity || part.option)
            for (int d = 0; d < part.dims; ++d)
                features.push_back({kIdentity, part.start + d, row++, 0, 0.0});
        for (const double frequency : part.frequencies) {
            for (int d = 0; d < part.dims; ++d)
                features.push_back({kFrequency, part.start + d, row + d, row + part.dims + d, frequency});
            row += 2 * part.dims;
        }
    }
    return features;
}

inline FitShape fit_shape(const FitNet& net, int bytes, bool adam, int64_t batch) {
    return {net.values, net.rows(), std::max(net.width, net.out_dim), bytes, adam, batch};
}

}  // namespace mclnf

// A field's description as the compiled ops receive it: `FieldSpec.packed` of mclnf_fast/spec.py, read back.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace mclnf {

enum Activation : int { kNone, kRelu, kSine, kSoftplus, kTanh, kSigmoid, kExp, kActivations };
enum EncodingKind : int { kIdentity, kFrequency, kSpherical };

struct EncodingPart {
    int kind;
    int start;   // first coordinate
    int dims;    // number of coordinates
    int option;  // kFrequency: 1 = the input comes first; kSpherical: the degree
    std::vector<double> frequencies;

    int features() const {
        if (kind == kIdentity) return dims;
        if (kind == kSpherical) return option * option;
        return dims * (2 * static_cast<int>(frequencies.size()) + option);
    }
};

struct Layer {
    int in;         // rows of the weight
    int from_prev;  // rows fed by the layer before (or by the encoding, in layer 0)
    int out;
    bool skip;  // rows from_prev ... in-1 are fed by the encoding
};

struct Net {
    int in_dim, out_dim, encoded;
    int activation, output_activation;
    double w0;
    std::vector<EncodingPart> parts;
    std::vector<Layer> layers;
    int max_dim = 0;  // widest row of any layer's input or output
    int64_t parameters = 0;

    Net(const std::vector<int64_t>& ints, const std::vector<double>& floats) {
        STD_TORCH_CHECK(ints.size() >= 8 && !floats.empty(), "net: the description is too short");
        // Sizes that no network has, refused before anything is computed from them in 32 bits.
        for (int i = 0; i < 4; ++i)
            STD_TORCH_CHECK(ints[i] >= 0 && ints[i] <= (1 << 20), "net: sizes out of range");
        STD_TORCH_CHECK(ints[4] >= 0 && ints[4] < kActivations && ints[5] >= 0 && ints[5] < kActivations,
                        "net: unknown activation");
        in_dim = static_cast<int>(ints[0]);
        out_dim = static_cast<int>(ints[1]);
        const int width = static_cast<int>(ints[2]);
        const int hidden = static_cast<int>(ints[3]);
        activation = static_cast<int>(ints[4]);
        output_activation = static_cast<int>(ints[5]);
        const int64_t skips = ints[6];
        STD_TORCH_CHECK(ints[7] >= 0 && ints[7] <= 1024, "net: a wrong number of encodings");
        const size_t count = static_cast<size_t>(ints[7]);
        w0 = floats[0];
        STD_TORCH_CHECK(in_dim > 0 && out_dim > 0 && width > 0 && hidden >= 0 && hidden < 31,
                        "net: sizes out of range");
        STD_TORCH_CHECK(ints.size() == 8 + 5 * count, "net: the description has a wrong length");
        size_t next = 1;
        encoded = 0;
        for (size_t p = 0; p < count; ++p) {
            const int64_t* e = ints.data() + 8 + 5 * p;
            STD_TORCH_CHECK(e[1] >= 0 && e[2] > 0 && e[1] <= in_dim && e[2] <= in_dim - e[1],
                            "net: an encoding reads coordinates that are not there");
            STD_TORCH_CHECK(e[0] >= kIdentity && e[0] <= kSpherical, "net: unknown encoding");
            const int64_t most = e[0] == kIdentity ? 0 : e[0] == kFrequency ? 1 : 4;
            STD_TORCH_CHECK(e[3] >= 0 && e[3] <= most, "net: an encoding's option is out of range");
            EncodingPart part{static_cast<int>(e[0]),
                              static_cast<int>(e[1]),
                              static_cast<int>(e[2]),
                              static_cast<int>(e[3]),
                              {}};
            STD_TORCH_CHECK(
                part.kind != kSpherical || (part.dims == 3 && part.option >= 1 && part.option <= 4),
                "net: spherical harmonics need 3 coordinates and a degree of 1 to 4");
            STD_TORCH_CHECK(e[4] >= 0 && static_cast<size_t>(e[4]) <= floats.size() - next,
                            "net: frequencies are missing");
            part.frequencies.assign(floats.begin() + next, floats.begin() + next + e[4]);
            next += static_cast<size_t>(e[4]);
            STD_TORCH_CHECK(e[4] <= (1 << 20) / part.dims, "net: sizes out of range");
            encoded += part.features();
            STD_TORCH_CHECK(encoded <= (1 << 24), "net: sizes out of range");
            parts.push_back(std::move(part));
        }
        for (int l = 0; l <= hidden; ++l) {
            Layer layer;
            layer.from_prev = l == 0 ? encoded : width;
            layer.skip = l > 0 && ((skips >> l) & 1);
            layer.in = layer.from_prev + (layer.skip ? encoded : 0);
            layer.out = l == hidden ? out_dim : width;
            max_dim = std::max(max_dim, std::max(layer.in, layer.out));
            parameters += static_cast<int64_t>(layer.in + 1) * layer.out;
            layers.push_back(layer);
        }
    }
};

}  // namespace mclnf

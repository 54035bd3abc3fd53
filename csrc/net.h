// A field's description as the compiled ops receive it: `FieldSpec.packed` of mclnf_fast/spec.py, read back.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "names.h"

namespace mclnf {

// One encoding and the coordinates that it reads.
struct EncodingPart {
    int kind;    // an EncodingKind
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

    int from_encoding() const { return in - from_prev; }
    int64_t weights() const { return static_cast<int64_t>(in) * out; }
    // The first weight of the rows that the encoding feeds.
    int64_t encoding_offset() const { return static_cast<int64_t>(from_prev) * out; }
};

// The derivative of these two is in the activation's value (1 where it is positive, or 1 everywhere) and
// their second derivative is 0: nothing but the value need be stored of them.
inline bool derivative_in_value(int activation) { return activation == kRelu || activation == kNone; }

struct Net {
    int in_dim, out_dim, encoded;
    int activation, output_activation;  // an Activation each
    double w0;                          // of kSine: sin(w0 z)
    std::vector<EncodingPart> parts;
    std::vector<Layer> layers;
    int max_dim = 0;  // widest row of any layer's input or output
    int64_t parameters = 0;

    Net(const std::vector<int64_t>& ints, const std::vector<double>& floats) {
        read_head(ints, floats);
        read_encodings(ints, floats);
        add_layers(static_cast<int>(ints[kNetWidth]), static_cast<int>(ints[kNetHiddenLayers]),
                   ints[kNetSkips]);
    }

    int activation_of(size_t layer) const {
        return layer + 1 == layers.size() ? output_activation : activation;
    }

  private:
    static constexpr int64_t kMaxSize = 1 << 20;     // of a width or a number of coordinates
    static constexpr int64_t kMaxEncoded = 1 << 24;  // features of the encoding
    static constexpr int64_t kMaxEncodingParts = 1024;

    void read_head(const std::vector<int64_t>& ints, const std::vector<double>& floats) {
        STD_TORCH_CHECK(ints.size() >= kNetFields && !floats.empty(), "net: the description is too short");
        // Sizes that no network has, refused before anything is computed from them in 32 bits.
        for (const int field : {kNetInDim, kNetOutDim, kNetWidth, kNetHiddenLayers})
            STD_TORCH_CHECK(ints[field] >= 0 && ints[field] <= kMaxSize, "net: sizes out of range");
        for (const int field : {kNetActivation, kNetOutputActivation})
            STD_TORCH_CHECK(ints[field] >= 0 && ints[field] < kActivations, "net: unknown activation");
        in_dim = static_cast<int>(ints[kNetInDim]);
        out_dim = static_cast<int>(ints[kNetOutDim]);
        activation = static_cast<int>(ints[kNetActivation]);
        output_activation = static_cast<int>(ints[kNetOutputActivation]);
        w0 = floats[0];
        STD_TORCH_CHECK(ints[kNetEncodings] >= 0 && ints[kNetEncodings] <= kMaxEncodingParts,
                        "net: a wrong number of encodings");
        STD_TORCH_CHECK(
            in_dim > 0 && out_dim > 0 && ints[kNetWidth] > 0 && ints[kNetHiddenLayers] <= kMaxHiddenLayers,
            "net: sizes out of range");
        STD_TORCH_CHECK(
            ints.size() == kNetFields + kEncodingFields * static_cast<size_t>(ints[kNetEncodings]),
            "net: the description has a wrong length");
    }

    void read_encodings(const std::vector<int64_t>& ints, const std::vector<double>& floats) {
        size_t next = 1;  // floats[0] is w0
        encoded = 0;
        for (size_t at = kNetFields; at < ints.size(); at += kEncodingFields) {
            const int64_t* fields = ints.data() + at;
            EncodingPart part = encoding_part(fields);
            const int64_t count = fields[kEncodingFrequencies];
            STD_TORCH_CHECK(count >= 0 && static_cast<size_t>(count) <= floats.size() - next,
                            "net: frequencies are missing");
            part.frequencies.assign(floats.begin() + next, floats.begin() + next + count);
            next += static_cast<size_t>(count);
            STD_TORCH_CHECK(count <= kMaxSize / part.dims, "net: sizes out of range");
            encoded += part.features();
            STD_TORCH_CHECK(encoded <= kMaxEncoded, "net: sizes out of range");
            parts.push_back(std::move(part));
        }
    }

    EncodingPart encoding_part(const int64_t* fields) const {
        const int64_t kind = fields[kEncodingKind], start = fields[kEncodingStart],
                      dims = fields[kEncodingDims], option = fields[kEncodingOption];
        STD_TORCH_CHECK(start >= 0 && dims > 0 && start <= in_dim && dims <= in_dim - start,
                        "net: an encoding reads coordinates that are not there");
        STD_TORCH_CHECK(kind >= 0 && kind < kEncodings, "net: unknown encoding");
        const int64_t max_option = kind == kIdentity ? 0 : kind == kFrequency ? 1 : kMaxSphericalDegree;
        STD_TORCH_CHECK(option >= 0 && option <= max_option, "net: an encoding's option is out of range");
        STD_TORCH_CHECK(kind != kSpherical || (dims == 3 && option >= 1),
                        "net: spherical harmonics need 3 coordinates and a degree of 1 to ",
                        kMaxSphericalDegree);
        return {static_cast<int>(kind),
                static_cast<int>(start),
                static_cast<int>(dims),
                static_cast<int>(option),
                {}};
    }

    void add_layers(int width, int hidden, int64_t skips) {
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

// What a scored step forms beside its gradients. With a sample's gradient g = a d^T in the weights of a layer
// (a its inputs, d the gradients of its pre-activations), and the running Fisher F, damped:
//   squares of a batch  sum g^2     = (a * a)^T (d * d)
//   a sample's score    sum g^2 / F = (a * a) . ((1 / F) (d * d)),
// exact, by a product each, and no sample's gradient is formed. d is of the mean over the batch, as the step
// takes it: squares and scores are those of the samples' own losses over the square of its size.
#pragma once

#include "batch.h"
#include "layers.h"

namespace mclnf {

template <typename S, int kPrecision>
class FitScores {
    using Layers = FitLayers<S, kPrecision>;

  public:
    __device__ FitScores(const FitCall<S>& call, const FitMemory<S>& memory, const Layers& layers)
        : c_(call), net_(call.net), mem_(memory), layers_(layers) {}

    // Layer l of a tile that begins at this draw. Layers that stay count for nothing.
    __device__ void add_layer(int l, const FitBatch<S>& batch, int64_t begin) const {
        if (!batch.squared || 2 * l < c_.frozen) return;
        add_squares(l, begin == 0);
        if (batch.scored) add_scores(l, batch, begin);
    }

  private:
    __device__ S* numbers(int64_t at) const { return reinterpret_cast<S*>(mem_.guide + at); }
    __device__ const S* inputs(int l, int part) const {
        return part == 0 ? layers_.input_of(l) : layers_.row(0);
    }

    __device__ void add_squares(int l, bool first) const {
        const FitLayer layer = net_.layer[l];
        const S* gradient = layers_.gradient_of(l);
        S* squares = numbers(c_.guide->plan.squares);
        const int stride = layers_.stride();
        for (int part = 0; part < (layer.encoded > 0 ? 2 : 1); ++part) {
            const Range<S> ranges[1] = {{inputs(l, part), gradient, layers_.points()}};
            S* to = squares + (part == 0 ? layer.weight : layer.skip_weight());
            const Factor<true> rows{part == 0 ? layer.prev : layer.encoded, stride},
                columns{layer.out, stride};
            product<S, Squared::both>(FitTeam::all(), rows, columns, ranges, [&](int r, int o, auto chunk) {
                S& sum = to[r * layer.stride + o];
                sum = first ? chunk.v[0] : sum + chunk.v[0];
            });
        }
        each_value(1, layer.out, [&](int, int o) {
            S sum = S(0);
            for (int p = 0; p < layers_.points(); ++p) {
                const S d = gradient[o * stride + p];
                sum += d * d;
            }
            S& square = squares[layer.bias + o];
            square = first ? sum : square + sum;
        });
    }

    // The terms of all inputs to memory, and from there their sums, each by one thread: the order of a sum is
    // that of the inputs, whatever the threads do.
    __device__ void add_scores(int l, const FitBatch<S>& batch, int64_t begin) const {
        const FitLayer layer = net_.layer[l];
        const S *gradient = layers_.gradient_of(l), *inverse = numbers(c_.guide->plan.inverse);
        S *terms = numbers(c_.guide->plan.terms), *scores = numbers(c_.guide->plan.scores);
        const int points = layers_.points(), stride = layers_.stride();
        for (int part = 0; part < (layer.encoded > 0 ? 2 : 1); ++part) {
            const S* input = inputs(l, part);
            const Range<S> ranges[1] = {
                {inverse + (part == 0 ? layer.weight : layer.skip_weight()), gradient, layer.out_rows}};
            S* to = terms + (part == 0 ? 0 : layer.prev * stride);
            const Factor<true> rows{part == 0 ? layer.prev : layer.encoded, layer.stride};
            const Factor<false> columns{points, stride};
            product<S, Squared::right>(FitTeam::all(), rows, columns, ranges, [&](int r, int p, auto chunk) {
                const auto a = read_chunk<sizeof(chunk.v) / sizeof(S)>(input + r * stride + p);
                for (size_t i = 0; i < sizeof(chunk.v) / sizeof(S); ++i) chunk.v[i] *= a.v[i] * a.v[i];
                write_chunk(to + r * stride + p, chunk);
            });
        }
        __syncthreads();
        for (int p = static_cast<int>(threadIdx.x); p < points; p += FitTeam::all().threads) {
            if (begin + p >= batch.size) continue;
            S score = l + 1 == net_.layers ? S(0) : scores[begin + p];
            for (int r = 0; r < layer.prev + layer.encoded; ++r) score += terms[r * stride + p];
            for (int o = 0; o < layer.out; ++o) {
                const S d = gradient[o * stride + p];
                score += inverse[layer.bias + o] * (d * d);
            }
            scores[begin + p] = score;
        }
    }

    const FitCall<S>& c_;
    const FitNet& net_;
    const FitMemory<S>& mem_;
    const Layers& layers_;
};

}  // namespace mclnf

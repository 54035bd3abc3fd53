// A network over a tile of points, forward and backward, by the threads of a block.
#pragma once

#include "activations.h"
#include "call.h"
#include "math/spherical.h"
#include "tensor_products.h"

namespace mclnf {

// Threads of a block over the columns of rows, a warp per row.
template <typename F>
__device__ inline void each_value(int rows, int columns, const F& f) {
    const FitTeam team = FitTeam::all();
    for (int r = team.warp(); r < rows; r += team.warps())
        for (int i = team.lane(); i < columns; i += 32) f(r, i);
}

// kPrecision: of the operands of all products but the first layer's (and those of a skip with the encoding's
// features), which are rounded where they are written: weights, activations and the gradients of
// pre-activations.
template <typename S, int kPrecision>
class FitLayers {
  public:
    __device__ FitLayers(const FitCall<S>& call, const FitMemory<S>& memory)
        : c_(call), net_(call.net), mem_(memory), points_(call.plan.points), stride_(points_ + 4) {}

    // An operand of a product by the tensor cores.
    __device__ static S rounded(S x) {
        if constexpr (kPrecision == kFp32)
            return x;
        else
            return Mma<kPrecision>::rounded(x);
    }

    // The gradient of a pre-activation of layer l as the products read it.
    __device__ static S written(int l, S gradient) { return l > 0 ? rounded(gradient) : gradient; }

    // Gradients of a mean are too small for fp16: from the outputs on they are this power of two times their
    // value, at least the number of terms, which is divided out where weight gradients are written.
    __device__ void raise(S scale) {
        raised_ = S(1);
        if constexpr (kPrecision == kFp16)
            while (raised_ * scale < S(1)) raised_ *= S(2);
    }
    __device__ S raised() const { return raised_; }

    __device__ S* row(int r) const { return mem_.acts + r * stride_; }
    __device__ int points() const { return points_; }
    __device__ int stride() const { return stride_; }

    // coordinate(d, p) is a point's.
    template <typename F>
    __device__ void encode(const F& coordinate) const {
        each_value(c_.feature_count, points_, [&](int f, int p) {
            const FitFeature feature = c_.features[f];
            const int d = feature.coordinate;
            S* to = row(feature.row) + p;
            if (feature.kind == kIdentity) {
                *to = coordinate(d, p);
            } else if (feature.kind == kFrequency) {
                sine_of(static_cast<S>(feature.frequency) * coordinate(d, p), *to, row(feature.second)[p]);
            } else {
                // In double: the polynomials cancel in single precision.
                double out[kMaxSphericalDegree * kMaxSphericalDegree];
                spherical_harmonics<double>(feature.second, coordinate(d, p), coordinate(d + 1, p),
                                            coordinate(d + 2, p), out);
                for (int i = 0; i < feature.second * feature.second; ++i)
                    to[i * stride_] = static_cast<S>(out[i]);
            }
        });
    }

    // From the features to the outputs' pre-activations. Ends with a barrier.
    __device__ void forward() const {
        for (int l = 0; l < net_.layers; ++l) {
            pre_activations(l);
            __syncthreads();
            if (l + 1 == net_.layers) break;
            activate_layer(l);
            __syncthreads();
        }
    }

    // From the gradients of the outputs' pre-activations, which are in their place, to those of the
    // parameters: added to mem.grads, or written there if it is the first tile. The caller waits afterwards.
    // Before those of a layer, before(l) may read its inputs and the gradients of its pre-activations.
    template <typename F>
    __device__ void backward(bool first, const F& before) const {
        for (int l = net_.layers - 1; l >= 0; --l) {
            before(l);
            backward(l, first);
            if (l > 0) __syncthreads();
        }
    }

    __device__ const S* input_of(int l) const { return row(l == 0 ? 0 : net_.hidden(l - 1)); }
    // dL/dz of a layer.
    __device__ S* gradient_of(int l) const {
        return row(l + 1 == net_.layers ? net_.outputs() : net_.derivatives(l));
    }

  private:
    __device__ S lowered(S sum) const { return kPrecision == kFp16 ? sum * (S(1) / raised_) : sum; }

    __device__ void pre_activations(int l) const {
        const FitLayer layer = net_.layer[l];
        S* to = l + 1 == net_.layers ? row(net_.outputs()) : row(net_.hidden(l));
        const S *weights = mem_.params + layer.weight, *bias = mem_.params + layer.bias;
        const Factor<false> rows{layer.out, layer.stride}, columns{points_, stride_};
        const Range<S> ranges[2] = {{weights, input_of(l), layer.prev_rows},
                                    {mem_.params + layer.skip_weight(), row(0), padded(layer.encoded)}};
        const auto write = [&](int r, int p, auto chunk) {
            for (S& z : chunk.v) z += bias[r];
            write_chunk(to + r * stride_ + p, chunk);
        };
        if constexpr (kPrecision != kFp32)
            if (l > 0) {
                tensor_product<kPrecision>(FitTeam::all(), rows, columns, ranges[0], write);
                if (layer.encoded == 0) return;
                __syncthreads();
                const Range<S> skip[1] = {ranges[1]};
                product<S>(FitTeam::all(), rows, columns, skip, [&](int r, int p, auto chunk) {
                    const auto before = read_chunk<sizeof(chunk.v) / sizeof(S)>(to + r * stride_ + p);
                    for (size_t i = 0; i < sizeof(chunk.v) / sizeof(S); ++i) chunk.v[i] += before.v[i];
                    write_chunk(to + r * stride_ + p, chunk);
                });
                return;
            }
        product<S>(FitTeam::all(), rows, columns, ranges, write);
    }

    __device__ void activate_layer(int l) const {
        S *values = row(net_.hidden(l)), *derivatives = row(net_.derivatives(l));
        const S w0 = static_cast<S>(net_.w0);
        // Fours of points: their number in a row is a power of two.
        const int fours = points_ / 4, shift = __popc(static_cast<unsigned>(fours - 1));
        for (int i = static_cast<int>(threadIdx.x); i < net_.width * fours; i += FitTeam::all().threads) {
            const int at = (i >> shift) * stride_ + (i & (fours - 1)) * 4;
            Chunk<S, 4> value = read_chunk<4>(values + at), derivative;
            activate(net_.activation, w0, value.v, derivative.v);
            for (S& h : value.v) h = rounded(h);
            write_chunk(values + at, value);
            if (!net_.in_place) write_chunk(derivatives + at, derivative);
        }
    }

    // The gradients of a layer's weights, and of the outputs of the layer before it. Those read the same and
    // are as much work: half of a large block makes each, unless the second overwrites what the first reads.
    __device__ void backward(int l, bool first) const {
        const FitTeam all = FitTeam::all();
        const bool halves = l > 0 && !net_.in_place && all.threads > kFitThreads;
        const int half = halves ? all.threads / 2 : 0;
        if (!halves || all.thread() < half) weight_gradients({0, halves ? half : all.threads}, l, first);
        if (l == 0) return;
        if (net_.in_place) __syncthreads();
        if (all.thread() >= half) output_gradients({half, all.threads - half}, l);
    }

    __device__ void weight_gradients(const FitTeam& team, int l, bool first) const {
        const FitLayer layer = net_.layer[l];
        const S* gradient = gradient_of(l);
        for (int part = 0; part < (layer.encoded > 0 ? 2 : 1); ++part) {
            const Range<S> ranges[1] = {{part == 0 ? input_of(l) : row(0), gradient, points_}};
            S* to = mem_.grads + (part == 0 ? layer.weight : layer.skip_weight());
            const Factor<true> rows{part == 0 ? layer.prev : layer.encoded, stride_},
                columns{layer.out, stride_};
            if constexpr (kPrecision != kFp32)
                if (l > 0 && part == 0) {
                    // Columns behind the layer's end are padding of the same row.
                    tensor_product<kPrecision>(team, rows, columns, ranges[0], [&](int r, int o, auto chunk) {
                        S* const sums = to + r * layer.stride + o;
                        const auto before = read_chunk<2>(sums);
                        for (int n = 0; n < 2; ++n)
                            chunk.v[n] = first ? lowered(chunk.v[n]) : before.v[n] + lowered(chunk.v[n]);
                        write_chunk(sums, chunk);
                    });
                    continue;
                }
            product<S>(team, rows, columns, ranges, [&](int r, int o, auto chunk) {
                S& sum = to[r * layer.stride + o];
                sum = first ? lowered(chunk.v[0]) : sum + lowered(chunk.v[0]);
            });
        }
        for (int o = team.thread(); o < layer.out; o += team.threads) {
            Chunk<S, 4> sums = {};
            for (int p = 0; p < points_; p += 4) {
                const Chunk<S, 4> four = read_chunk<4>(gradient + o * stride_ + p);
                for (int n = 0; n < 4; ++n) sums.v[n] += four.v[n];
            }
            const S sum = lowered((sums.v[0] + sums.v[1]) + (sums.v[2] + sums.v[3]));
            S& bias = mem_.grads[layer.bias + o];
            bias = first ? sum : bias + sum;
        }
    }

    // Of the layer before l, in place of its derivatives.
    __device__ void output_gradients(const FitTeam& team, int l) const {
        const FitLayer layer = net_.layer[l];
        S* to = row(net_.derivatives(l - 1));
        const bool relu = net_.activation == kRelu, own = !net_.in_place;
        const Factor<true> rows{layer.prev, layer.stride};
        const Factor<false> columns{points_, stride_};
        const Range<S> ranges[1] = {{mem_.params + layer.weight, gradient_of(l), layer.out_rows}};
        const auto write = [&](int r, int p, auto chunk) {
            auto there = chunk;
            there = read_chunk<sizeof(chunk.v) / sizeof(S)>(to + r * stride_ + p);
            for (size_t i = 0; i < sizeof(chunk.v) / sizeof(S); ++i) {
                if (own) chunk.v[i] *= there.v[i];
                if (relu) chunk.v[i] = there.v[i] > S(0) ? chunk.v[i] : S(0);
                chunk.v[i] = written(l - 1, chunk.v[i]);
            }
            write_chunk(to + r * stride_ + p, chunk);
        };
        if constexpr (kPrecision != kFp32)
            tensor_product<kPrecision>(team, rows, columns, ranges[0], write);
        else
            product<S>(team, rows, columns, ranges, write);
    }

    const FitCall<S>& c_;
    const FitNet& net_;
    const FitMemory<S>& mem_;
    const int points_, stride_;
    S raised_ = S(1);
};

}  // namespace mclnf

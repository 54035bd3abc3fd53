// The loss of a batch and its gradients, by the threads of a block, tile after tile.
#pragma once

#include "call.h"
#include "math/spherical.h"
#include "products.h"

namespace mclnf {

// z -> a(z) in its place and a'(z)
template <typename S, int N>
__device__ inline void activate(int kind, S w0, S (&values)[N], S (&derivatives)[N]) {
    const auto each = [&](const auto& f) {
        MCLNF_UNROLL
        for (int n = 0; n < N; ++n) f(values[n], derivatives[n]);
    };
    switch (kind) {
        case kRelu:
            return each([](S& z, S& derivative) {
                derivative = z > S(0) ? S(1) : S(0);
                // Written so that NaN stays NaN: a maximum would hide it behind a 0.
                z = z < S(0) ? S(0) : z;
            });
        case kSine: {
            bool all_near = true;
            each([&](S& z, S&) {
                z *= w0;
                all_near = all_near && near(z);
            });
            // Side by side if none is far: the bits are the same.
            if (all_near)
                each([](S& z, S& cosine) { near_sine(z, z, cosine); });
            else
                each([](S& z, S& cosine) { sine_of(z, z, cosine); });
            return each([&](S&, S& derivative) { derivative *= w0; });
        }
        case kSoftplus:
            return each([](S& z, S& derivative) {
                // Of -|z|, whose exponential can't overflow.
                const S u = std::exp(z < S(0) ? z : -z), q = S(1) / (S(1) + u);
                derivative = z < S(0) ? u * q : q;
                z = (z > S(0) ? z : S(0)) + std::log1p(u);
            });
        case kTanh:
            return each([](S& z, S& derivative) {
                z = std::tanh(z);
                derivative = S(1) - z * z;
            });
        case kSigmoid:
            return each([](S& z, S& derivative) {
                const S u = std::exp(z < S(0) ? z : -z), q = S(1) / (S(1) + u);
                derivative = u * q * q;
                z = z < S(0) ? u * q : q;
            });
        case kExp:
            return each([](S& z, S& derivative) { z = derivative = std::exp(z); });
        default:
            return each([](S&, S& derivative) { derivative = S(1); });
    }
}

// The samples of a module, x [n, in_dim], target [n, out_dim], weight [n] or null, and which of them a step
// takes.
template <typename S>
struct FitBatch {
    const S *x, *target, *weight;
    int64_t samples;
    int rule;
    int64_t size;
    DrawCounter counter;
    int place;  // of kDrawEven
    const int64_t* ids;
    const S* ids_weight;

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

// Threads of a block over the columns of rows, a warp per row.
template <typename F>
__device__ inline void each_value(int rows, int columns, const F& f) {
    const FitTeam team = FitTeam::all();
    for (int r = team.warp(); r < rows; r += team.warps())
        for (int i = team.lane(); i < columns; i += 32) f(r, i);
}

template <typename S>
class FitSweep {
  public:
    __device__ FitSweep(const FitCall<S>& call, const FitMemory<S>& memory)
        : c_(call), net_(call.net), mem_(memory), points_(call.plan.points), stride_(points_ + 4) {}

    // The sum of weighted squared errors over the batch, a share of which each thread returns; with
    // `gradients` those of its mean are in mem.grads. Begins and ends with a barrier.
    __device__ double run(const FitBatch<S>& batch, bool gradients) {
        const S scale = scale_of(batch);
        double error = 0;
        for (int64_t begin = 0; begin < batch.size; begin += points_) {
            __syncthreads();
            draw(batch, begin);
            __syncthreads();
            encode(batch);
            __syncthreads();
            for (int l = 0; l < net_.layers; ++l) {
                pre_activations(l);
                __syncthreads();
                if (l + 1 == net_.layers) break;
                activate_layer(l);
                __syncthreads();
            }
            error += compare(batch, scale, gradients);
            if (gradients) {
                __syncthreads();
                for (int l = net_.layers - 1; l >= 0; --l) {
                    backward(l, begin == 0);
                    if (l > 0) __syncthreads();
                }
            }
        }
        __syncthreads();
        return error;
    }

    __device__ S scale_of(const FitBatch<S>& batch) const {
        return S(1) / static_cast<S>(batch.size * net_.out_dim);
    }

  private:
    __device__ S* row(int r) const { return mem_.acts + r * stride_; }
    __device__ const S* input_of(int l) const { return row(l == 0 ? 0 : net_.hidden(l - 1)); }
    // dL/dz of a layer.
    __device__ S* gradient_of(int l) const {
        return row(l + 1 == net_.layers ? net_.outputs() : net_.derivatives(l));
    }

    // A point beyond the batch is that of the tile's first with weight 0, so that it is finite if that one
    // is.
    __device__ void draw(const FitBatch<S>& batch, int64_t begin) const {
        for (int p = static_cast<int>(threadIdx.x); p < points_; p += FitTeam::all().threads) {
            const bool inside = begin + p < batch.size;
            const int64_t j = inside ? begin + p : begin;
            bool known;
            const int64_t id = batch.id(j, known);
            S weight = batch.weight ? batch.weight[id] : S(1);
            if (batch.ids_weight) weight *= batch.ids_weight[j];
            mem_.ids[p] = static_cast<uint32_t>(id);
            mem_.weights[p] = !known ? S(NAN) : inside ? weight : S(0);
        }
    }

    __device__ void encode(const FitBatch<S>& batch) const {
        each_value(c_.feature_count, points_, [&](int f, int p) {
            const FitFeature feature = c_.features[f];
            const S* x = batch.x + static_cast<int64_t>(mem_.ids[p]) * net_.in_dim + feature.coordinate;
            S* to = row(feature.row) + p;
            if (feature.kind == kIdentity) {
                *to = *x;
            } else if (feature.kind == kFrequency) {
                sine_of(static_cast<S>(feature.frequency) * *x, *to, row(feature.second)[p]);
            } else {
                // In double: the polynomials cancel in single precision.
                double out[kMaxSphericalDegree * kMaxSphericalDegree];
                spherical_harmonics<double>(feature.second, x[0], x[1], x[2], out);
                for (int i = 0; i < feature.second * feature.second; ++i)
                    to[i * stride_] = static_cast<S>(out[i]);
            }
        });
    }

    __device__ void pre_activations(int l) const {
        const FitLayer layer = net_.layer[l];
        S* to = l + 1 == net_.layers ? row(net_.outputs()) : row(net_.hidden(l));
        const S *weights = mem_.params + layer.weight, *bias = mem_.params + layer.bias;
        const Range<S> ranges[2] = {{weights, input_of(l), padded(layer.prev)},
                                    {mem_.params + layer.skip_weight(), row(0), padded(layer.encoded)}};
        product<S>(FitTeam::all(), Factor<false>{layer.out, layer.stride}, Factor<false>{points_, stride_},
                   ranges, [&](int r, int p, auto chunk) {
                       for (S& z : chunk.v) z += bias[r];
                       write_chunk(to + r * stride_ + p, chunk);
                   });
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
            write_chunk(values + at, value);
            if (!net_.in_place) write_chunk(derivatives + at, derivative);
        }
    }

    // Outputs against targets: the error, and the gradient of the outputs' pre-activations in their place.
    __device__ double compare(const FitBatch<S>& batch, S scale, bool gradients) const {
        S* outputs = row(net_.outputs());
        const S w0 = static_cast<S>(net_.w0), twice = S(2) * scale;
        double error = 0;
        each_value(net_.out_dim, points_, [&](int r, int p) {
            S& z = outputs[r * stride_ + p];
            S value[1] = {z}, derivative[1];
            activate(net_.output_activation, w0, value, derivative);
            const S e = value[0] - batch.target[static_cast<int64_t>(mem_.ids[p]) * net_.out_dim + r];
            const S share = mem_.weights[p] * e;
            error += static_cast<double>(share * e);
            if (gradients) z = twice * share * derivative[0];
        });
        return error;
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
            product<S>(team, Factor<true>{part == 0 ? layer.prev : layer.encoded, stride_},
                       Factor<true>{layer.out, stride_}, ranges, [&](int r, int o, auto chunk) {
                           S& sum = to[r * layer.stride + o];
                           sum = first ? chunk.v[0] : sum + chunk.v[0];
                       });
        }
        for (int o = team.thread(); o < layer.out; o += team.threads) {
            Chunk<S, 4> sums = {};
            for (int p = 0; p < points_; p += 4) {
                const Chunk<S, 4> four = read_chunk<4>(gradient + o * stride_ + p);
                for (int n = 0; n < 4; ++n) sums.v[n] += four.v[n];
            }
            const S sum = (sums.v[0] + sums.v[1]) + (sums.v[2] + sums.v[3]);
            S& bias = mem_.grads[layer.bias + o];
            bias = first ? sum : bias + sum;
        }
    }

    // Of the layer before l, in place of its derivatives.
    __device__ void output_gradients(const FitTeam& team, int l) const {
        const FitLayer layer = net_.layer[l];
        S* to = row(net_.derivatives(l - 1));
        const bool relu = net_.activation == kRelu, own = !net_.in_place;
        const Range<S> ranges[1] = {{mem_.params + layer.weight, gradient_of(l), padded(layer.out)}};
        product<S>(team, Factor<true>{layer.prev, layer.stride}, Factor<false>{points_, stride_}, ranges,
                   [&](int r, int p, auto chunk) {
                       auto there = chunk;
                       there = read_chunk<sizeof(chunk.v) / sizeof(S)>(to + r * stride_ + p);
                       for (size_t i = 0; i < sizeof(chunk.v) / sizeof(S); ++i) {
                           if (own) chunk.v[i] *= there.v[i];
                           if (relu) chunk.v[i] = there.v[i] > S(0) ? chunk.v[i] : S(0);
                       }
                       write_chunk(to + r * stride_ + p, chunk);
                   });
    }

    const FitCall<S>& c_;
    const FitNet& net_;
    const FitMemory<S>& mem_;
    const int points_, stride_;
};

}  // namespace mclnf

// The colors of a group of samples (lanes.h): their weighted sum, their product with one color, and one color
// times the weights. C channels of a sample lie side by side. kC: C if it is known when compiling, else 0.
#pragma once

#include "lanes.h"

namespace mclnf {

// One color, such as a cotangent.
template <int kC, typename V>
struct OneColor {
    using T = typename Lanes<V>::Scalar;
    T local[kC > 0 ? kC : 1] = {};  // by value: stores might alias `memory` for all the compiler knows
    const T* memory;
    int count;

    MCLNF_HD MCLNF_INLINE OneColor(const T* color, int channels) : memory(color), count(channels) {
        for (int c = 0; c < kC && color; ++c) local[kC > 0 ? c : 0] = color[c];
    }
    MCLNF_HD MCLNF_INLINE T at(int c) const { return kC > 0 ? local[kC > 0 ? c : 0] : memory[c]; }

    // A product for each sample.
    template <bool kWhole>
    MCLNF_HD MCLNF_INLINE V times(const T* colors, Part part) const {
        const int channels = kC > 0 ? kC : count;
        T sums[Lanes<V>::kCount] = {};
        for (int j = 0; j < (Lanes<V>::kCount == 1 ? 1 : part.m); ++j) {
            for (int c = 0; c < channels; ++c)
                sums[j] += at(c) * colors[static_cast<int64_t>(j) * channels + c];
        }
        return load_lanes<V, true>(sums, part);
    }
    // out[j, c] = w[j] color[c]
    template <bool kWhole>
    MCLNF_HD MCLNF_INLINE void scaled(V w, T* out, Part part) const {
        const int channels = kC > 0 ? kC : count;
        T weights[Lanes<V>::kCount];
        store_lanes<true>(weights, w, part);
        for (int j = 0; j < (Lanes<V>::kCount == 1 ? 1 : part.m); ++j) {
            for (int c = 0; c < channels; ++c)
                out[static_cast<int64_t>(j) * channels + c] = weights[j] * at(c);
        }
    }
};

// A sum of colors; formed in `out` if C is not known when compiling.
template <int kC, typename V>
struct ColorSum {
    using T = typename Lanes<V>::Scalar;
    T local[kC > 0 ? kC : 1] = {};
    T* out;
    int count;

    MCLNF_HD MCLNF_INLINE ColorSum(T* place, int channels) : out(place), count(channels) {
        for (int c = 0; kC == 0 && c < channels; ++c) out[c] = 0;
    }
    template <bool kWhole>
    MCLNF_HD MCLNF_INLINE void add(V w, const T* colors, Part part) {
        const int channels = kC > 0 ? kC : count;
        T weights[Lanes<V>::kCount];
        store_lanes<true>(weights, w, part);
        for (int j = 0; j < (Lanes<V>::kCount == 1 ? 1 : part.m); ++j) {
            const T* color = colors + static_cast<int64_t>(j) * channels;
            for (int c = 0; c < channels; ++c)
                (kC > 0 ? local[kC > 0 ? c : 0] : out[c]) += weights[j] * color[c];
        }
    }
    // Into `out`, whole.
    MCLNF_HD MCLNF_INLINE void finish() {
        for (int c = 0; c < kC; ++c) out[c] = local[kC > 0 ? c : 0];
    }
};

#ifdef MCLNF_WIDE
// Eight samples of three channels as x[v] = [four numbers of the samples 0 ... 3, four of 4 ... 7]: number 4
// v
// + l of a half is sample (4 v + l) / 3, channel (4 v + l) % 3. From there on nothing crosses the halves.
struct Colors8 {
    Float8 x[3];

    // The share of `part` in the eight numbers from `first` on.
    static MCLNF_INLINE Part piece(Part part, int first) {
        const int n = 3 * part.m - first;
        return {n < 0 ? 0 : (n > 8 ? 8 : n), part.roomy, false};
    }
    template <bool kWhole>
    static MCLNF_INLINE Colors8 load(const float* p, Part part) {
        const Float8 a = load_lanes<Float8, kWhole>(p, piece(part, 0)),
                     b = load_lanes<Float8, kWhole>(p + 8, piece(part, 8)),
                     c = load_lanes<Float8, kWhole>(p + 16, piece(part, 16));
        return {{MCLNF_SHUFFLE(a, b, 0, 1, 2, 3, 12, 13, 14, 15),
                 MCLNF_SHUFFLE(a, c, 4, 5, 6, 7, 8, 9, 10, 11),
                 MCLNF_SHUFFLE(b, c, 0, 1, 2, 3, 12, 13, 14, 15)}};
    }
    template <bool kWhole>
    MCLNF_INLINE void store(float* p, Part part) const {
        const Float8 a = MCLNF_SHUFFLE(x[0], x[1], 0, 1, 2, 3, 8, 9, 10, 11);
        const Float8 b = MCLNF_SHUFFLE(x[2], x[0], 0, 1, 2, 3, 12, 13, 14, 15);
        const Float8 c = MCLNF_SHUFFLE(x[1], x[2], 4, 5, 6, 7, 12, 13, 14, 15);
        const int n = kWhole || part.open ? 24 : part.m * 3;
        if (n < 8) return store_lanes<false>(p, a, {n, false, false});
        store_lanes<true>(p, a, part);
        if (n < 16) return store_lanes<false>(p + 8, b, {n - 8, false, false});
        store_lanes<true>(p + 8, b, part);
        if (n < 24) return store_lanes<false>(p + 16, c, {n - 16, false, false});
        store_lanes<true>(p + 16, c, part);
    }
    // Each sample's w at the places of its channels.
    static MCLNF_INLINE Colors8 spread(Float8 w) {
        return {{MCLNF_SHUFFLE(w, w, 0, 0, 0, 1, 4, 4, 4, 5), MCLNF_SHUFFLE(w, w, 1, 1, 2, 2, 5, 5, 6, 6),
                 MCLNF_SHUFFLE(w, w, 2, 3, 3, 3, 6, 7, 7, 7)}};
    }
    MCLNF_INLINE Float8 channel0() const {
        const Float8 v = MCLNF_SHUFFLE(x[0], x[2], 0, 9, 2, 3, 4, 13, 6, 7);
        const Float8 u = MCLNF_SHUFFLE(v, x[1], 0, 1, 10, 3, 4, 5, 14, 7);
        return MCLNF_SHUFFLE(u, u, 0, 3, 2, 1, 4, 7, 6, 5);
    }
    MCLNF_INLINE Float8 channel1() const {
        const Float8 v = MCLNF_SHUFFLE(x[1], x[0], 0, 9, 2, 3, 4, 13, 6, 7);
        const Float8 u = MCLNF_SHUFFLE(v, x[2], 0, 1, 10, 3, 4, 5, 14, 7);
        return MCLNF_SHUFFLE(u, u, 1, 0, 3, 2, 5, 4, 7, 6);
    }
    MCLNF_INLINE Float8 channel2() const {
        const Float8 v = MCLNF_SHUFFLE(x[2], x[1], 0, 9, 2, 3, 4, 13, 6, 7);
        const Float8 u = MCLNF_SHUFFLE(v, x[0], 0, 1, 10, 3, 4, 5, 14, 7);
        return MCLNF_SHUFFLE(u, u, 2, 1, 0, 3, 6, 5, 4, 7);
    }
};

template <>
struct OneColor<3, Float8> {
    float local[3] = {0, 0, 0};

    MCLNF_INLINE OneColor(const float* color, int) {
        for (int c = 0; c < 3 && color; ++c) local[c] = color[c];
    }
    MCLNF_INLINE float at(int c) const { return local[c]; }
    template <bool kWhole>
    MCLNF_INLINE Float8 times(const float* colors, Part part) const {
        const Colors8 loaded = Colors8::load<kWhole>(colors, part);
        return loaded.channel0() * local[0] + loaded.channel1() * local[1] + loaded.channel2() * local[2];
    }
    template <bool kWhole>
    MCLNF_INLINE void scaled(Float8 w, float* out, Part part) const {
        const float r = local[0], g = local[1], b = local[2];
        Colors8 loaded = Colors8::spread(w);
        loaded.x[0] *= Float8{r, g, b, r, r, g, b, r};
        loaded.x[1] *= Float8{g, b, r, g, g, b, r, g};
        loaded.x[2] *= Float8{b, r, g, b, b, r, g, b};
        loaded.store<kWhole>(out, part);
    }
};

template <>
struct ColorSum<3, Float8> {
    Colors8 sums{};
    float* out;

    MCLNF_INLINE ColorSum(float* place, int) : out(place) {}
    template <bool kWhole>
    MCLNF_INLINE void add(Float8 w, const float* colors, Part part) {
        const Colors8 loaded = Colors8::load<kWhole>(colors, part), weights = Colors8::spread(w);
        for (int v = 0; v < 3; ++v) sums.x[v] += weights.x[v] * loaded.x[v];
    }
    MCLNF_INLINE void finish() {
        float flat[24];
        memcpy(flat, sums.x, sizeof flat);
        for (int v = 0; v < 3; ++v) {
            for (int l = 0; l < 4; ++l) flat[4 * v + l] = flat[8 * v + l] + flat[8 * v + 4 + l];
        }
        for (int c = 0; c < 3; ++c) out[c] = (flat[c] + flat[c + 3]) + (flat[c + 6] + flat[c + 9]);
    }
};
#endif

}  // namespace mclnf

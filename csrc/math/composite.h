// Alpha compositing along one ray: values and first gradients. Shared by csrc/cpu and csrc/cuda.
//
// With s_i = density_i (t_end_i - t_start_i) and A_i = sum_{j<i} s_j: T_i = exp(-A_i), w_i = T_i (1 -
// exp(-s_i)).
//   color = sum w_i c_i + (1 - sum w_i) bg, opacity = sum w_i, depth = sum w_i m_i, m_i = (t_start_i +
//   t_end_i) / 2.
// First gradients: with q_i = gC.(c_i - bg) + gO + gD m_i + gw_i,
//   h_k = dL/ds_k = T_{k+1} q_k - sum_{i>k} w_i q_i,
// and every first gradient follows from h and w. The suffix sum runs backwards (a total less a prefix would
// cancel). Second derivatives are in composite_second.h.
//
// A ray is worked through in groups of samples, the lanes of V (lanes.h): the rest at the ray's end, or
// before the place at which it ends early, is a group in part, whose other lanes count as samples of density
// 0. On a GPU a thread has one lane, of a ray of its own or of one that the warp shares; values that are
// written once per ray, or beyond its light, go through leads() and clear().
#pragma once

#include "composite_channels.h"
#include "exponential.h"

namespace mclnf {

template <typename T>
struct CompositeRay {
    const T *density, *color, *t_start, *t_end;  // of the ray's first sample
    const T* background;                         // [C] or null
    int64_t count;
    int64_t room;  // number of samples from the first on that can be read, at least `count`
    int64_t open;  // number of samples from the first on that can be written: those behind `count` come later
    int channels;
    T eps;
};

template <typename T>
struct CompositeCotangents {
    const T* color;    // [C] or null
    const T* weights;  // of the ray's first sample, or null
    T opacity, depth;
};

template <typename T>
MCLNF_HD MCLNF_INLINE T dot_channels(const T* a, const T* b, int channels) {
    T sum = 0;
    for (int c = 0; c < channels; ++c) sum += a[c] * b[c];
    return sum;
}

template <typename V>
using ScalarOf = typename Lanes<V>::Scalar;

// The intervals of the group that begins at sample `at`. An endless density (`raw`) counts as 0 in `density`,
// the derivative of s by the length, and has no derivative of its own: over a length above 0 nothing behind
// it is seen, however long it is, and an interval of length 0 has no weight, whatever its density (infinity
// times 0 would make the whole ray NaN).
template <typename V>
struct Intervals {
    V density, length, middle, s, raw;
};
template <typename V, bool kWhole>
MCLNF_HD MCLNF_INLINE Intervals<V> intervals_at(const CompositeRay<ScalarOf<V>>& ray, int64_t at, Part part) {
    const V start = load_lanes<V, kWhole>(ray.t_start + at, part);
    const V end = load_lanes<V, kWhole>(ray.t_end + at, part);
    Intervals<V> result;
    result.raw = load_lanes<V, kWhole>(ray.density + at, part);
    result.density = unless_endless(result.raw, result.raw);
    result.length = end - start;
    result.middle = (start + end) * ScalarOf<V>(0.5);
    result.s = where_zero(result.length, result.density, result.raw) * result.length;
    return result;
}

// The samples of the group at `at` that light reaches: those of the ray before the first with T < eps.
template <typename V>
MCLNF_HD MCLNF_INLINE Part lit_part(const CompositeRay<ScalarOf<V>>& ray, int64_t at, V carried) {
    constexpr int kCount = Lanes<V>::kCount;
    const int m = static_cast<int>(ray.count - at < kCount ? ray.count - at : kCount);
    Part part{m, ray.room - at >= kCount, ray.open - at >= kCount};
    if (ray.eps > ScalarOf<V>(0)) {
        V total;
        const V s = intervals_at<V, false>(ray, at, part).s;
        part.m = lanes_until_below(exp_of(-(carried + sums_before(s, total))), ray.eps, m);
        if (part.m < m) part.open = false;  // the dark samples of the ray are written apart
    }
    return part;
}

// The running sums of the forward pass along a ray.
template <int kC, typename V>
struct ForwardSums {
    V carried{}, opacity{}, depth{};
    ColorSum<kC, V> color;

    template <bool kWhole>
    MCLNF_HD MCLNF_INLINE void add(const CompositeRay<ScalarOf<V>>& ray, int64_t at, Part part,
                                   ScalarOf<V>* weights) {
        const Intervals<V> in = intervals_at<V, kWhole>(ray, at, part);
        V total;
        const V optical = carried + sums_before(in.s, total);
        const V w = only_part<kWhole>(V(exp_of(-optical) * -expm1_of(-in.s)), part);
        store_lanes<kWhole>(weights + at, w, part);
        color.template add<kWhole>(w, ray.color + at * (kC > 0 ? kC : ray.channels), part);
        carried += total;
        opacity += w;
        depth += w * in.middle;
    }
};

template <int kC, typename V>
MCLNF_HD MCLNF_INLINE void composite_forward(const CompositeRay<ScalarOf<V>>& ray, ScalarOf<V>* out_color,
                                             ScalarOf<V>* out_opacity, ScalarOf<V>* out_depth,
                                             ScalarOf<V>* out_weights) {
    using T = ScalarOf<V>;
    constexpr int kCount = Lanes<V>::kCount;
    ForwardSums<kC, V> sums{{}, {}, {}, {out_color, ray.channels}};
    int64_t at = 0;
    const Part all{kCount, true, true};
    for (const int64_t last = ray.eps > T(0) ? -1 : ray.count - kCount; at <= last; at += kCount)
        sums.template add<true>(ray, at, all, out_weights);
    while (at < ray.count) {
        const Part part = lit_part(ray, at, sums.carried);
        if (part.m == kCount) {
            sums.template add<true>(ray, at, part, out_weights);
            at += kCount;
            continue;
        }
        if (part.m > 0) sums.template add<false>(ray, at, part, out_weights);
        at += part.m;
        break;
    }
    clear<V>(out_weights, at, ray.count);
    sums.color.finish();
    const T opacity = sum_lanes(sums.opacity), depth = sum_lanes(sums.depth);
    if (!leads<V>()) return;
    const int channels = kC > 0 ? kC : ray.channels;
    for (int c = 0; ray.background && c < channels; ++c) out_color[c] += (T(1) - opacity) * ray.background[c];
    *out_opacity = opacity;
    *out_depth = depth;
}

// The optical depths before the samples of a ray: those of whole groups in `optical`, those of a last group
// in part in `rest`. `optical` is memory that the caller overwrites later: a buffer per ray would be as much
// again as the gradients.
template <typename V>
struct OpticalDepths {
    int64_t whole = 0;  // samples in whole groups
    Part part{0, false, false};
    V rest{}, carried{};

    MCLNF_HD MCLNF_INLINE OpticalDepths(const CompositeRay<ScalarOf<V>>& ray, ScalarOf<V>* optical) {
        V total;
        const int64_t last = ray.eps > ScalarOf<V>(0) ? -1 : ray.count - Lanes<V>::kCount;
        for (const Part all{Lanes<V>::kCount, true, true}; whole <= last; whole += Lanes<V>::kCount) {
            const V before = sums_before(intervals_at<V, true>(ray, whole, all).s, total);
            store_lanes<true>(optical + whole, V(carried + before), all);
            carried += total;
        }
        while (whole < ray.count) {
            part = lit_part(ray, whole, carried);
            if (part.m == 0) return;
            if (part.m < Lanes<V>::kCount) {
                rest = carried + sums_before(intervals_at<V, false>(ray, whole, part).s, total);
                carried += total;
                return;
            }
            const V before = sums_before(intervals_at<V, true>(ray, whole, part).s, total);
            store_lanes<true>(optical + whole, V(carried + before), part);
            carried += total;
            whole += Lanes<V>::kCount;
        }
        part.m = 0;
    }
};

// The running sums of the first backward pass; it goes from the last sample to the first.
template <int kC, typename V>
struct BackwardSums {
    using T = ScalarOf<V>;
    const CompositeRay<T>& ray;
    const CompositeCotangents<T>& g;
    const OneColor<kC, V> grad;
    const T base;  // of q
    V after;       // transmittances of the group behind
    T *density, *color, *start, *end;
    V suffix{}, opacity{};

    template <bool kWhole>
    MCLNF_HD MCLNF_INLINE void add(int64_t at, Part part, V optical) {
        const int64_t row = at * (kC > 0 ? kC : ray.channels);
        const Intervals<V> in = intervals_at<V, kWhole>(ray, at, part);
        const V trans = exp_of(-optical), next = successors(trans, after);
        const V w = only_part<kWhole>(V(trans * -expm1_of(-in.s)), part);
        V q = in.middle * g.depth + base;
        if (g.weights) q += load_lanes<V, kWhole>(g.weights + at, part);
        if (g.color) q += grad.template times<kWhole>(ray.color + row, part);
        q = only_part<kWhole>(q, part);
        V total;
        const V behind = suffix + sums_after(V(w * q), total);
        const V h = next * q - behind;
        store_lanes<kWhole>(density + at, V(h * in.length), part);
        if (start) {
            const V middle = w * g.depth * T(0.5), side = h * in.density;
            store_lanes<kWhole>(end + at, V(middle + side), part);
            store_lanes<kWhole>(start + at, V(middle - side), part);
        }
        if (color && g.color) grad.template scaled<kWhole>(w, color + row, part);
        suffix += total;
        opacity += w;
        after = trans;
    }
};

// First gradients. grad_density serves as room for the optical depths of the first pass. Null: not needed.
template <int kC, typename V>
MCLNF_HD MCLNF_INLINE void composite_backward(const CompositeRay<ScalarOf<V>>& ray,
                                              const CompositeCotangents<ScalarOf<V>>& g,
                                              ScalarOf<V>* grad_density, ScalarOf<V>* grad_color,
                                              ScalarOf<V>* grad_start, ScalarOf<V>* grad_end,
                                              ScalarOf<V>* grad_background) {
    using T = ScalarOf<V>;
    const int channels = kC > 0 ? kC : ray.channels;
    const OpticalDepths<V> depths(ray, grad_density);
    const int64_t live = depths.whole + depths.part.m;
    clear<V>(grad_density, live, ray.count);
    if (grad_start) {
        clear<V>(grad_start, live, ray.count);
        clear<V>(grad_end, live, ray.count);
    }
    if (grad_color) clear<V>(grad_color, (g.color ? live : 0) * channels, ray.count * channels);
    const T base =
        g.opacity - (g.color && ray.background ? dot_channels(g.color, ray.background, channels) : T(0));
    BackwardSums<kC, V> sums{ray,          g,          {g.color, channels}, base,    exp_of(-depths.carried),
                             grad_density, grad_color, grad_start,          grad_end};
    if (depths.part.m > 0) sums.template add<false>(depths.whole, depths.part, depths.rest);
    const Part all{Lanes<V>::kCount, true, true};
    for (int64_t at = depths.whole - Lanes<V>::kCount; at >= 0; at -= Lanes<V>::kCount)
        sums.template add<true>(at, all, load_lanes<V, true>(grad_density + at, all));
    if (grad_background) {
        const T opacity = sum_lanes(sums.opacity);
        for (int c = Lanes<V>::thread(); c < channels; c += Lanes<V>::kThreads)
            grad_background[c] = g.color ? (T(1) - opacity) * g.color[c] : T(0);
    }
}

}  // namespace mclnf

// Double backward of compositing along one ray (composite.h has the notation).
//
// Given a tangent v of the inputs x, the cotangent of the first gradients, the scalar <v, dL/dx> = <g, Jf v>
// has the gradients
//   in g: the tangent of the outputs, Jf v;   in x: the derivative of the first gradients along v, g held.
// With ' for the derivative along v: A'_i = sum_{j<i} s'_j, T'_i = -T_i A'_i, w'_i = T_{i+1} s'_i - w_i A'_i,
// and
//   h'_k = T'_{k+1} q_k + T_{k+1} q'_k - sum_{i>k} (w'_i q_i + w_i q'_i).
// Two running sums forwards and two backwards: the cost of about two backward passes. Differentiating the
// recursion itself would need the first pass's intermediates in memory, several numbers per sample.
#pragma once

#include "composite.h"

namespace mclnf {

template <typename T>
struct CompositeTangents {  // of the ray's first sample; null is zero
    const T *density, *color, *t_start, *t_end, *background;
};

// All but background are always written; background is null if the ray has none.
template <typename T>
struct CompositeSecond {
    T *density, *color, *t_start, *t_end, *background;         // by the inputs
    T *grad_color, *grad_opacity, *grad_depth, *grad_weights;  // by the cotangents
};

// Tangents of density, of the length and the middle of a sample and of s.
template <typename V, bool kWhole>
MCLNF_HD MCLNF_INLINE Intervals<V> tangents_at(const Intervals<V>& in,
                                               const CompositeTangents<ScalarOf<V>>& v, int64_t at,
                                               Part part) {
    const V start = v.t_start ? load_lanes<V, kWhole>(v.t_start + at, part) : V{};
    const V end = v.t_end ? load_lanes<V, kWhole>(v.t_end + at, part) : V{};
    Intervals<V> tangents;
    tangents.density = v.density ? load_lanes<V, kWhole>(v.density + at, part) : V{};
    tangents.density = unless_endless(in.raw, tangents.density);
    tangents.length = unless_endless(in.raw, V(end - start));
    tangents.middle = (start + end) * ScalarOf<V>(0.5);
    tangents.s = tangents.density * in.length + in.density * tangents.length;
    return tangents;
}

// A' before the samples of a ray, stored like OpticalDepths.
template <typename V>
struct DepthTangents {
    using T = ScalarOf<V>;
    V rest{}, carried{};

    MCLNF_HD MCLNF_INLINE DepthTangents(const CompositeRay<T>& ray, const CompositeTangents<T>& v,
                                        const OpticalDepths<V>& depths, T* tangents) {
        constexpr int kCount = Lanes<V>::kCount;
        const Part all{kCount, true, true};
        V total;
        for (int64_t at = 0; at < depths.whole; at += kCount) {
            const V s = tangents_at<V, true>(intervals_at<V, true>(ray, at, all), v, at, all).s;
            store_lanes<true>(tangents + at, V(carried + sums_before(s, total)), all);
            carried += total;
        }
        if (depths.part.m == 0) return;
        const Intervals<V> in = intervals_at<V, false>(ray, depths.whole, depths.part);
        const V s = tangents_at<V, false>(in, v, depths.whole, depths.part).s;
        rest = carried + sums_before(s, total);
        carried += total;
    }
};

// The running sums of the second backward pass; it goes from the last sample to the first.
template <int kC, typename V>
struct SecondSums {
    using T = ScalarOf<V>;
    const CompositeRay<T>& ray;
    const CompositeCotangents<T>& g;
    const CompositeTangents<T>& v;
    const CompositeSecond<T>& out;
    const OneColor<kC, V> grad;
    ColorSum<kC, V> color;
    const T base, base_tangent;  // of q and q'
    V after, after_tangent;      // T and A' of the group behind
    V suffix{}, suffix_tangent{}, opacity{}, opacity_tangent{}, depth_tangent{};

    template <bool kWhole>
    MCLNF_HD MCLNF_INLINE void add(int64_t at, Part part, V optical, V optical_tangent) {
        const int64_t row = at * (kC > 0 ? kC : ray.channels);
        const Intervals<V> in = intervals_at<V, kWhole>(ray, at, part);
        const Intervals<V> tangent = tangents_at<V, kWhole>(in, v, at, part);
        const V trans = exp_of(-optical), next = successors(trans, after);
        const V next_tangent = successors(optical_tangent, after_tangent);
        const V w = only_part<kWhole>(V(trans * -expm1_of(-in.s)), part);
        const V dw = only_part<kWhole>(V(next * tangent.s - w * optical_tangent), part);
        V q = in.middle * g.depth + base, dq = tangent.middle * g.depth + base_tangent;
        if (g.weights) q += load_lanes<V, kWhole>(g.weights + at, part);
        if (g.color) {
            q += grad.template times<kWhole>(ray.color + row, part);
            if (v.color) dq += grad.template times<kWhole>(v.color + row, part);
            grad.template scaled<kWhole>(dw, out.color + row, part);
        } else {
            clear<V>(out.color, row, row + part.m * static_cast<int64_t>(kC > 0 ? kC : ray.channels));
        }
        color.template add<kWhole>(dw, ray.color + row, part);
        if (v.color) color.template add<kWhole>(w, v.color + row, part);
        q = only_part<kWhole>(q, part);
        dq = only_part<kWhole>(dq, part);
        V total, total_tangent;
        const V behind = suffix + sums_after(V(w * q), total);
        const V behind_tangent = suffix_tangent + sums_after(V(dw * q + w * dq), total_tangent);
        const V h = next * q - behind, dh = next * (dq - next_tangent * q) - behind_tangent;
        const V middle = dw * g.depth * T(0.5), side = dh * in.density + h * tangent.density;
        store_lanes<kWhole>(out.density + at, V(dh * in.length + h * tangent.length), part);
        store_lanes<kWhole>(out.t_end + at, V(middle + side), part);
        store_lanes<kWhole>(out.t_start + at, V(middle - side), part);
        store_lanes<kWhole>(out.grad_weights + at, dw, part);
        suffix += total;
        suffix_tangent += total_tangent;
        opacity += w;
        opacity_tangent += dw;
        depth_tangent += dw * in.middle + w * tangent.middle;
        after = trans;
        after_tangent = optical_tangent;
    }
};

// density and grad_weights of `out` serve as room for A and A' of the first pass.
template <int kC, typename V>
MCLNF_HD MCLNF_INLINE void composite_second(const CompositeRay<ScalarOf<V>>& ray,
                                            const CompositeCotangents<ScalarOf<V>>& g,
                                            const CompositeTangents<ScalarOf<V>>& v,
                                            const CompositeSecond<ScalarOf<V>>& out) {
    using T = ScalarOf<V>;
    const int channels = kC > 0 ? kC : ray.channels;
    const OpticalDepths<V> depths(ray, out.density);
    const DepthTangents<V> tangents(ray, v, depths, out.grad_weights);
    const int64_t live = depths.whole + depths.part.m;
    clear<V>(out.density, live, ray.count);
    clear<V>(out.t_start, live, ray.count);
    clear<V>(out.t_end, live, ray.count);
    clear<V>(out.grad_weights, live, ray.count);
    clear<V>(out.color, live * channels, ray.count * channels);
    const T* background = ray.background;
    const T base = g.opacity - (g.color && background ? dot_channels(g.color, background, channels) : T(0));
    const T base_tangent = g.color && v.background ? -dot_channels(g.color, v.background, channels) : T(0);
    SecondSums<kC, V> sums{ray,
                           g,
                           v,
                           out,
                           {g.color, channels},
                           {out.grad_color, channels},
                           base,
                           base_tangent,
                           exp_of(-depths.carried),
                           tangents.carried};
    if (depths.part.m > 0) sums.template add<false>(depths.whole, depths.part, depths.rest, tangents.rest);
    const Part all{Lanes<V>::kCount, true, true};
    for (int64_t at = depths.whole - Lanes<V>::kCount; at >= 0; at -= Lanes<V>::kCount) {
        sums.template add<true>(at, all, load_lanes<V, true>(out.density + at, all),
                                load_lanes<V, true>(out.grad_weights + at, all));
    }
    sums.color.finish();
    const T opacity = sum_lanes(sums.opacity), opacity_tangent = sum_lanes(sums.opacity_tangent);
    const T depth_tangent = sum_lanes(sums.depth_tangent);
    if (!leads<V>()) return;
    for (int c = 0; c < channels; ++c) {
        if (background) out.grad_color[c] -= opacity_tangent * background[c];
        if (v.background) out.grad_color[c] += (T(1) - opacity) * v.background[c];
        if (out.background) out.background[c] = g.color ? -opacity_tangent * g.color[c] : T(0);
    }
    *out.grad_opacity = opacity_tangent;
    *out.grad_depth = depth_tangent;
}

}  // namespace mclnf

// Double backward of compositing along one ray (composite.h has the notation).
//
// Given a tangent v of the inputs x, the cotangent of the first gradients, the scalar <v, dL/dx> = <g, Jf v>
// has the gradients
//   in g: the tangent of the outputs, Jf v;   in x: the derivative of the first gradients along v, g held.
// With ' for the derivative along v: A'_i = sum_{j<i} s'_j, T'_i = -T_i A'_i, w'_i = T_{i+1} s'_i - w_i A'_i,
// and
//   h'_k = T'_{k+1} q_k + T_{k+1} q'_k - sum_{i>k} (w'_i q_i + w_i q'_i).
// Two running sums forwards and two backwards: the cost of about two backward passes.
#pragma once

#include "composite.h"

namespace mclnf {

template <typename T>
struct CompositeTangents {  // of the ray's first sample; null is zero
    const T *density, *color, *t_start, *t_end, *background;
};

// All but background are always written; background is null where the ray has none.
template <typename T>
struct CompositeSecond {
    T *density, *color, *t_start, *t_end, *background;         // by the inputs
    T *grad_color, *grad_opacity, *grad_depth, *grad_weights;  // by the cotangents
};

// Tangents of s, of the middle of the sample and of its length.
template <typename T>
struct SampleTangent {
    T s, middle, length;
};

template <typename T>
MCLNF_HD MCLNF_INLINE SampleTangent<T> sample_tangent(const CompositeRay<T>& ray,
                                                      const CompositeTangents<T>& v, int64_t k) {
    const T start = v.t_start ? v.t_start[k] : T(0), end = v.t_end ? v.t_end[k] : T(0);
    const T density = v.density ? v.density[k] : T(0);
    SampleTangent<T> found;
    found.length = end - start;
    found.middle = T(0.5) * (start + end);
    found.s = density * (ray.t_end[k] - ray.t_start[k]) + ray.density[k] * found.length;
    return found;
}

// density and grad_weights of `out` serve as room for A and A' of the first pass.
template <int kTile, typename T>
MCLNF_HD MCLNF_INLINE void composite_second(const CompositeRay<T>& ray, const CompositeCotangents<T>& g,
                                            const CompositeTangents<T>& v, const CompositeSecond<T>& out) {
    const int channels = ray.channels;
    T carried = 0, slope = 0, s[kTile], optical[kTile], trans[kTile + 1], slopes[kTile + 1];
    int64_t live = 0;
    while (live < ray.count) {
        const int m = static_cast<int>(ray.count - live < kTile ? ray.count - live : kTile);
        const int lit = composite_tile<kTile>(ray, live, m, carried, s, optical);
        for (int j = 0; j < lit; ++j) {
            out.density[live + j] = optical[j];
            out.grad_weights[live + j] = slope;
            slope += sample_tangent(ray, v, live + j).s;
        }
        live += lit;
        if (lit < m) {
            carried = optical[lit];
            break;
        }
    }
    for (int64_t k = live; k < ray.count; ++k) {
        out.density[k] = out.t_start[k] = out.t_end[k] = out.grad_weights[k] = 0;
        for (int c = 0; c < channels; ++c) out.color[k * channels + c] = 0;
    }
    for (int c = 0; c < channels; ++c) out.grad_color[c] = 0;

    const T* background = ray.background;
    const T base = g.opacity - (g.color && background ? dot_channels(g.color, background, channels) : T(0));
    const T base_slope = g.color && v.background ? -dot_channels(g.color, v.background, channels) : T(0);
    T suffix = 0, suffix_slope = 0, opacity = 0, opacity_slope = 0, depth_slope = 0;
    T after = exp_of(-carried), after_slope = slope;
    T w[kTile], dw[kTile], q[kTile], dq[kTile], h[kTile], dh[kTile];
    SampleTangent<T> tangent[kTile];
    for (int64_t stop = live; stop > 0;) {
        const int m = static_cast<int>(stop < kTile ? stop : kTile);
        const int64_t at = stop - m;
        const T *density = ray.density + at, *start = ray.t_start + at, *end = ray.t_end + at;
        trans[m] = after;
        slopes[m] = after_slope;
        for (int j = 0; j < m; ++j) {
            trans[j] = exp_of(-out.density[at + j]);
            slopes[j] = out.grad_weights[at + j];
            w[j] = trans[j] * -expm1_of(-(density[j] * (end[j] - start[j])));
        }
        for (int j = 0; j < m; ++j) {
            tangent[j] = sample_tangent(ray, v, at + j);
            dw[j] = trans[j + 1] * tangent[j].s - w[j] * slopes[j];
            q[j] = base + g.depth * (T(0.5) * (start[j] + end[j])) + (g.weights ? g.weights[at + j] : T(0));
            dq[j] = base_slope + g.depth * tangent[j].middle;
        }
        for (int j = 0; j < m; ++j) {
            const int64_t row = (at + j) * channels;
            for (int c = 0; c < channels; ++c) {
                const T color = ray.color[row + c], color_slope = v.color ? v.color[row + c] : T(0);
                const T grad = g.color ? g.color[c] : T(0);
                q[j] += grad * color;
                dq[j] += grad * color_slope;
                out.grad_color[c] += dw[j] * color + w[j] * color_slope;
                out.color[row + c] = dw[j] * grad;
            }
        }
        for (int j = m - 1; j >= 0; --j) {
            h[j] = suffix;
            dh[j] = suffix_slope;
            suffix += w[j] * q[j];
            suffix_slope += dw[j] * q[j] + w[j] * dq[j];
            opacity += w[j];
            opacity_slope += dw[j];
            depth_slope += dw[j] * (T(0.5) * (start[j] + end[j])) + w[j] * tangent[j].middle;
        }
        for (int j = 0; j < m; ++j) {
            const T density_slope = v.density ? v.density[at + j] : T(0);
            h[j] = trans[j + 1] * q[j] - h[j];
            dh[j] = trans[j + 1] * (dq[j] - slopes[j + 1] * q[j]) - dh[j];
            const T middle = T(0.5) * (dw[j] * g.depth), side = dh[j] * density[j] + h[j] * density_slope;
            out.density[at + j] = dh[j] * (end[j] - start[j]) + h[j] * tangent[j].length;
            out.t_end[at + j] = middle + side;
            out.t_start[at + j] = middle - side;
            out.grad_weights[at + j] = dw[j];
        }
        after = trans[0];
        after_slope = slopes[0];
        stop = at;
    }
    for (int c = 0; c < channels; ++c) {
        if (background) out.grad_color[c] -= opacity_slope * background[c];
        if (v.background) out.grad_color[c] += (T(1) - opacity) * v.background[c];
        if (out.background) out.background[c] = g.color ? -opacity_slope * g.color[c] : T(0);
    }
    *out.grad_opacity = opacity_slope;
    *out.grad_depth = depth_slope;
}

}  // namespace mclnf

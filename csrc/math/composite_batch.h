// Compositing of ray r of a batch: the place of its samples in the arrays, packed or dense. Plain pointers,
// for the loops of csrc/cpu and the kernels of csrc/cuda.
#pragma once

#include "composite_second.h"

namespace mclnf {

template <typename T>
struct CompositeBatch {
    const T *density, *color, *t_start, *t_end, *background;
    const int64_t* segments;  // [R, 2], or null: dense
    int64_t rays, samples, per_ray, background_step;
    int channels;
    T eps;
    int64_t open =
        0;  // samples before this one that come after a ray's own may be overwritten: it is their turn next

    // Clamped to the arrays: if the values of packed_info were not checked (on a GPU), wrong ones must not
    // reach beyond them.
    MCLNF_HD MCLNF_INLINE int64_t first(int64_t r) const {
        if (!segments) return r * per_ray;
        const int64_t at = segments[2 * r];
        return at < 0 ? 0 : (at > samples ? samples : at);
    }
    MCLNF_HD MCLNF_INLINE int64_t count(int64_t r) const {
        if (!segments) return per_ray;
        const int64_t n = segments[2 * r + 1], room = samples - first(r);
        return n < 0 ? 0 : (n > room ? room : n);
    }
    MCLNF_HD MCLNF_INLINE int64_t end(int64_t r) const { return first(r) + count(r); }
    MCLNF_HD MCLNF_INLINE CompositeRay<T> ray(int64_t r) const {
        const int64_t at = first(r);
        const T* bg = background ? background + r * background_step : nullptr;
        return {density + at, color + at * channels, t_start + at, t_end + at, bg,
                count(r),     samples - at,          open - at,    channels,   eps};
    }
};

template <typename T>
struct CompositeOutputs {
    T *color, *opacity, *depth, *weights;
};

template <typename T>
struct BatchCotangents {  // null is zero
    const T *color, *opacity, *depth, *weights;
};

template <typename T>
struct CompositeGradients {
    T *density, *color, *t_start, *t_end,
        *background;  // background [R, C]; null, but for density: not needed
};

template <typename P>
MCLNF_HD MCLNF_INLINE P* shifted(P* pointer, int64_t by) {
    return pointer ? pointer + by : nullptr;
}

template <typename T>
MCLNF_HD MCLNF_INLINE CompositeCotangents<T> cotangents_of(const CompositeBatch<T>& in,
                                                           const BatchCotangents<T>& g, int64_t r) {
    return {shifted(g.color, r * in.channels), shifted(g.weights, in.first(r)),
            g.opacity ? g.opacity[r] : T(0), g.depth ? g.depth[r] : T(0)};
}

template <int kC, typename V, typename T>
MCLNF_HD MCLNF_INLINE void forward_ray(const CompositeBatch<T>& in, const CompositeOutputs<T>& out,
                                       int64_t r) {
    composite_forward<kC, V>(in.ray(r), out.color + r * in.channels, out.opacity + r, out.depth + r,
                             out.weights + in.first(r));
}

template <int kC, typename V, typename T>
MCLNF_HD MCLNF_INLINE void backward_ray(const CompositeBatch<T>& in, const BatchCotangents<T>& g,
                                        const CompositeGradients<T>& out, int64_t r) {
    const int64_t at = in.first(r);
    composite_backward<kC, V>(in.ray(r), cotangents_of(in, g, r), out.density + at,
                              shifted(out.color, at * in.channels), shifted(out.t_start, at),
                              shifted(out.t_end, at), shifted(out.background, r * in.channels));
}

template <int kC, typename V, typename T>
MCLNF_HD MCLNF_INLINE void second_ray(const CompositeBatch<T>& in, const BatchCotangents<T>& g,
                                      const CompositeTangents<T>& v, const CompositeSecond<T>& out,
                                      int64_t r) {
    const int64_t at = in.first(r), row = at * in.channels;
    const CompositeTangents<T> tangents{shifted(v.density, at), shifted(v.color, row), shifted(v.t_start, at),
                                        shifted(v.t_end, at), shifted(v.background, r * in.background_step)};
    const CompositeSecond<T> place{out.density + at,
                                   out.color + row,
                                   out.t_start + at,
                                   out.t_end + at,
                                   shifted(out.background, r * in.channels),
                                   out.grad_color + r * in.channels,
                                   out.grad_opacity + r,
                                   out.grad_depth + r,
                                   out.grad_weights + at};
    composite_second<kC, V>(in.ray(r), cotangents_of(in, g, r), tangents, place);
}

}  // namespace mclnf

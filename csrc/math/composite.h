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
// A ray is worked through in tiles of kTile samples: the arithmetic of a tile vectorises, the running sums do
// not. The GPU takes kTile = 1, which leaves everything in registers.
#pragma once

#include "common.h"

namespace mclnf {

// kC: number of channels where it is known when compiling, else 0.
template <typename T>
struct CompositeRay {
    const T *density, *color, *t_start, *t_end;  // of the ray's first sample
    const T* background;                         // [C] or null
    int64_t count;
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

// Running sums before each of m numbers, on top of `carry`, which then holds the sum of all. A full tile goes
// as four chains side by side, since one chain of additions would wait for each of them.
template <int kTile, typename T>
MCLNF_HD MCLNF_INLINE void sums_before(const T* x, int m, T& carry, T* out) {
    constexpr int kPart = kTile / 4;
    if (kTile < 16 || m < kTile) {
        for (int j = 0; j < m; ++j) {
            out[j] = carry;
            carry += x[j];
        }
        return;
    }
    T run[4] = {0, 0, 0, 0};
    for (int j = 0; j < kPart; ++j) {
        for (int b = 0; b < 4; ++b) {
            out[b * kPart + j] = run[b];
            run[b] += x[b * kPart + j];
        }
    }
    for (int b = 0; b < 4; ++b) {
        for (int j = 0; j < kPart; ++j) out[b * kPart + j] += carry;
        carry += run[b];
    }
}

// The same from the other end: the sums after each number.
template <int kTile, typename T>
MCLNF_HD MCLNF_INLINE void sums_after(const T* x, int m, T& carry, T* out) {
    constexpr int kPart = kTile / 4;
    if (kTile < 16 || m < kTile) {
        for (int j = m - 1; j >= 0; --j) {
            out[j] = carry;
            carry += x[j];
        }
        return;
    }
    T run[4] = {0, 0, 0, 0};
    for (int j = kPart - 1; j >= 0; --j) {
        for (int b = 0; b < 4; ++b) {
            out[b * kPart + j] = run[b];
            run[b] += x[b * kPart + j];
        }
    }
    for (int b = 3; b >= 0; --b) {
        for (int j = 0; j < kPart; ++j) out[b * kPart + j] += carry;
        carry += run[b];
    }
}

// The sum of m numbers, in four chains.
template <typename T>
MCLNF_HD MCLNF_INLINE T sum_of(const T* x, int m) {
    T run[4] = {0, 0, 0, 0};
    int j = 0;
    for (; j + 4 <= m; j += 4) {
        for (int b = 0; b < 4; ++b) run[b] += x[j + b];
    }
    for (; j < m; ++j) run[0] += x[j];
    return (run[0] + run[1]) + (run[2] + run[3]);
}

// s and A of m samples; the optical depth is carried in and out. Returns how many of them the light reaches:
// those before the first with T < eps.
template <int kTile, typename T>
MCLNF_HD MCLNF_INLINE int composite_tile(const CompositeRay<T>& ray, int64_t at, int m, T& depth, T* s,
                                         T* optical) {
    const T *density = ray.density + at, *start = ray.t_start + at, *end = ray.t_end + at;
    for (int j = 0; j < m; ++j) s[j] = density[j] * (end[j] - start[j]);
    sums_before<kTile>(s, m, depth, optical);
    if (ray.eps > T(0)) {
        T trans[kTile];
        for (int j = 0; j < m; ++j) trans[j] = exp_of(-optical[j]);
        for (int j = 0; j < m; ++j) {
            if (trans[j] < ray.eps) return j;
        }
    }
    return m;
}

template <int kTile, int kC, typename T>
MCLNF_HD MCLNF_INLINE void composite_forward(const CompositeRay<T>& ray, T* out_color, T* out_opacity,
                                             T* out_depth, T* out_weights) {
    const int channels = kC > 0 ? kC : ray.channels;
    T color[kC > 0 ? kC : 1] = {};
    if (kC == 0) {
        for (int c = 0; c < channels; ++c) out_color[c] = 0;
    }
    T opacity = 0, depth = 0, carried = 0;
    T s[kTile], optical[kTile], w[kTile], wm[kTile];
    int64_t at = 0;
    while (at < ray.count) {
        const int m = static_cast<int>(ray.count - at < kTile ? ray.count - at : kTile);
        const int live = composite_tile<kTile>(ray, at, m, carried, s, optical);
        const T *start = ray.t_start + at, *end = ray.t_end + at, *c0 = ray.color + at * channels;
        for (int j = 0; j < live; ++j) {
            w[j] = exp_of(-optical[j]) * -expm1_of(-s[j]);
            wm[j] = w[j] * (T(0.5) * (start[j] + end[j]));
            out_weights[at + j] = w[j];
        }
        if (kC > 0) {
            T odd[kC > 0 ? kC : 1] = {};
            int j = 0;
            for (; j + 2 <= live; j += 2) {
                for (int c = 0; c < kC; ++c) {
                    color[c] += w[j] * c0[j * kC + c];
                    odd[c] += w[j + 1] * c0[(j + 1) * kC + c];
                }
            }
            for (int c = 0; c < kC; ++c) color[c] += (j < live ? w[j] * c0[j * kC + c] : T(0)) + odd[c];
        } else {
            for (int j = 0; j < live; ++j) {
                for (int c = 0; c < channels; ++c) {
                    out_color[c] += w[j] * c0[static_cast<int64_t>(j) * channels + c];
                }
            }
        }
        opacity += sum_of(w, live);
        depth += sum_of(wm, live);
        at += live;
        if (live < m) break;
    }
    for (; at < ray.count; ++at) out_weights[at] = 0;
    for (int c = 0; c < channels; ++c) {
        const T rest = ray.background ? (T(1) - opacity) * ray.background[c] : T(0);
        out_color[c] = (kC > 0 ? color[kC > 0 ? c : 0] : out_color[c]) + rest;
    }
    *out_opacity = opacity;
    *out_depth = depth;
}

// First gradients. grad_density serves as room for the optical depths of the first pass. Null: not needed.
template <int kTile, int kC, typename T>
MCLNF_HD MCLNF_INLINE void composite_backward(const CompositeRay<T>& ray, const CompositeCotangents<T>& g,
                                              T* grad_density, T* grad_color, T* grad_start, T* grad_end,
                                              T* grad_background) {
    const int channels = kC > 0 ? kC : ray.channels;
    T carried = 0, optical[kTile], trans[kTile + 1];
    T s[kTile], q[kTile], w[kTile], wq[kTile], h[kTile];
    int64_t live = 0;
    while (live < ray.count) {
        const int m = static_cast<int>(ray.count - live < kTile ? ray.count - live : kTile);
        const int lit = composite_tile<kTile>(ray, live, m, carried, s, optical);
        for (int j = 0; j < lit; ++j) grad_density[live + j] = optical[j];
        live += lit;
        if (lit < m) {
            carried = optical[lit];
            break;
        }
    }
    for (int64_t k = live; k < ray.count; ++k) {
        grad_density[k] = 0;
        if (grad_start) grad_start[k] = grad_end[k] = 0;
    }
    if (grad_color) {
        for (int64_t i = (g.color ? live : 0) * channels; i < ray.count * channels; ++i) grad_color[i] = 0;
    }
    T grad[kC > 0 ? kC : 1] =
        {};  // by value: the stores below might alias g.color for all the compiler knows
    for (int c = 0; c < kC && g.color; ++c) grad[kC > 0 ? c : 0] = g.color[c];
    const T base =
        g.opacity - (g.color && ray.background ? dot_channels(g.color, ray.background, channels) : T(0));
    T suffix = 0, opacity = 0, after = exp_of(-carried);
    for (int64_t stop = live; stop > 0;) {
        const int m = static_cast<int>(stop < kTile ? stop : kTile);
        const int64_t at = stop - m;
        const T *density = ray.density + at, *start = ray.t_start + at, *end = ray.t_end + at;
        trans[m] = after;
        for (int j = 0; j < m; ++j) {
            trans[j] = exp_of(-grad_density[at + j]);
            w[j] = trans[j] * -expm1_of(-(density[j] * (end[j] - start[j])));
            q[j] = base + g.depth * (T(0.5) * (start[j] + end[j]));
        }
        if (g.weights) {
            for (int j = 0; j < m; ++j) q[j] += g.weights[at + j];
        }
        if (g.color) {
            const T* c0 = ray.color + at * channels;
            for (int j = 0; j < m; ++j) {
                q[j] += dot_channels(g.color, c0 + static_cast<int64_t>(j) * channels, channels);
            }
        }
        for (int j = 0; j < m; ++j) wq[j] = w[j] * q[j];
        sums_after<kTile>(wq, m, suffix, h);
        if (grad_background) opacity += sum_of(w, m);
        for (int j = 0; j < m; ++j) {
            h[j] = trans[j + 1] * q[j] - h[j];
            grad_density[at + j] = h[j] * (end[j] - start[j]);
        }
        if (grad_start) {
            for (int j = 0; j < m; ++j) {
                const T middle = T(0.5) * (w[j] * g.depth);
                grad_end[at + j] = middle + h[j] * density[j];
                grad_start[at + j] = middle - h[j] * density[j];
            }
        }
        if (grad_color && g.color) {
            T* out = grad_color + at * channels;
            for (int j = 0; j < m; ++j) {
                for (int c = 0; c < channels; ++c) {
                    out[static_cast<int64_t>(j) * channels + c] =
                        w[j] * (kC > 0 ? grad[kC > 0 ? c : 0] : g.color[c]);
                }
            }
        }
        after = trans[0];
        stop = at;
    }
    if (grad_background) {
        for (int c = 0; c < channels; ++c)
            grad_background[c] = g.color ? (T(1) - opacity) * g.color[c] : T(0);
    }
}

}  // namespace mclnf

// The tensors of the three compositing ops: checked inputs, allocated outputs. The same on every device; a
// device adds the loops (csrc/cpu/composite.cpp) or the launches (csrc/cuda/composite.cu) as a class with a
// Guard and
//   check(inputs) (whether outputs by sample must be zero before the loops), forward(batch, out),
//   backward(batch, g, out),
//   second(batch, g, v, out), sum_rays(inputs, [R, C]).
#pragma once

#include <tuple>

#include "math/composite_batch.h"
#include "tensors.h"

namespace mclnf {

struct CompositeInputs {
    Tensor density, color, t_starts, t_ends;
    OptTensor packed_info, background;
    int64_t rays, samples;
    int channels;
    bool own_background;  // [R, C], not [C]
    bool gaps = true;     // samples may belong to no ray, and nobody else makes them zero
    double eps;

    CompositeInputs(const Tensor& density_, const Tensor& color_, const Tensor& t_starts_,
                    const Tensor& t_ends_, const OptTensor& packed_info_, const OptTensor& background_,
                    double eps_)
        : density(contiguous_of("density", density_)),
          color(contiguous_of("color", color_)),
          t_starts(contiguous_of("t_starts", t_starts_)),
          t_ends(contiguous_of("t_ends", t_ends_)),
          packed_info(contiguous_of("packed_info", packed_info_)),
          background(contiguous_of("background", background_)),
          eps(eps_) {
        const ScalarType dtype = density.scalar_type();
        STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                        "composite: density must be float32 or float64");
        const int64_t dim = packed_info ? 1 : 2;
        STD_TORCH_CHECK(
            density.dim() == dim && color.dim() == dim + 1,
            "composite: density must be [N] and color [N, C]; without packed_info [R, S] and [R, S, C]");
        samples = density.numel();
        channels = static_cast<int>(color.size(dim));
        rays = packed_info ? packed_info->size(0) : density.size(0);
        own_background = background && background->dim() == 2;
        for (const Tensor* t : {&color, &t_starts, &t_ends}) {
            STD_TORCH_CHECK(t->scalar_type() == dtype,
                            "composite: color, t_starts, t_ends must have density's dtype");
        }
        STD_TORCH_CHECK(
            channels >= 1 && color.numel() == samples * channels && t_starts.numel() == samples &&
                t_ends.numel() == samples,
            "composite: color, t_starts and t_ends must have density's samples, color C >= 1 channels");
        if (background) {
            STD_TORCH_CHECK(background->scalar_type() == dtype,
                            "composite: background must have density's dtype");
            STD_TORCH_CHECK(background->numel() == (own_background ? rays * channels : channels),
                            "composite: background must be [C] or [R, C]");
        }
        if (packed_info) {
            STD_TORCH_CHECK(
                packed_info->scalar_type() == ScalarType::Long && packed_info->numel() == 2 * rays,
                "composite: packed_info must be int64 [R, 2]");
        }
    }

    bool is_double() const { return density.scalar_type() == ScalarType::Double; }
    int64_t per_ray() const { return packed_info ? 0 : density.size(1); }

    template <typename T>
    CompositeBatch<T> batch() const {
        return {pointer<T>(density),
                pointer<T>(color),
                pointer<T>(t_starts),
                pointer<T>(t_ends),
                pointer<T>(background),
                pointer<int64_t>(packed_info),
                rays,
                samples,
                per_ray(),
                own_background ? channels : 0,
                channels,
                static_cast<T>(eps),
                gaps ? 0 : samples};
    }

    Tensor by_ray(bool with_channels) const {
        return with_channels ? torch::stable::new_empty(density, {rays, channels})
                             : torch::stable::new_empty(density, {rays});
    }

    // Like density or color. Samples of no ray must read zero; without any, the pass that writes zeros is
    // saved.
    Tensor by_sample(const Tensor& like) const {
        return gaps ? torch::stable::new_zeros(like, like.sizes())
                    : torch::stable::new_empty(like, like.sizes());
    }

    Tensor none() const { return torch::stable::new_empty(density, {0}); }
};

struct CotangentTensors {
    OptTensor color, opacity, depth, weights;

    CotangentTensors(const CompositeInputs& in, const OptTensor& color_, const OptTensor& opacity_,
                     const OptTensor& depth_, const OptTensor& weights_)
        : color(contiguous_of("grad_color", color_)),
          opacity(contiguous_of("grad_opacity", opacity_)),
          depth(contiguous_of("grad_depth", depth_)),
          weights(contiguous_of("grad_weights", weights_)) {
        check(in, color, in.rays * in.channels);
        check(in, opacity, in.rays);
        check(in, depth, in.rays);
        check(in, weights, in.samples);
    }

    static void check(const CompositeInputs& in, const OptTensor& t, int64_t numel) {
        STD_TORCH_CHECK(!t || (t->numel() == numel && t->scalar_type() == in.density.scalar_type()),
                        "composite: a cotangent or tangent must have the shape and dtype of its value");
    }

    template <typename T>
    BatchCotangents<T> batch() const {
        return {pointer<T>(color), pointer<T>(opacity), pointer<T>(depth), pointer<T>(weights)};
    }
};

using Tensors4 = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Tensors5 = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using Tensors9 = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename T, typename Device>
Tensors4 composite_fwd_typed(const Device& device, const CompositeInputs& in) {
    Tensor color = in.by_ray(true), opacity = in.by_ray(false), depth = in.by_ray(false);
    Tensor weights = in.by_sample(in.density);
    const CompositeOutputs<T> out{out_pointer<T>(color), out_pointer<T>(opacity), out_pointer<T>(depth),
                                  out_pointer<T>(weights)};
    device.forward(in.batch<T>(), out);
    return {color, opacity, depth, weights};
}

// A background [C] has one gradient for all rays: formed per ray [R, C] and summed in a fixed order, since
// atomic additions would change the last bits from run to run.
template <typename T, typename Device>
Tensors5 composite_bwd_typed(const Device& device, const CompositeInputs& in, const CotangentTensors& g,
                             bool need_color, bool need_t, bool need_background) {
    need_background = need_background && in.background;
    Tensor density = in.by_sample(in.density);
    Tensor color = need_color ? in.by_sample(in.color) : in.none();
    Tensor start = need_t ? in.by_sample(in.density) : in.none(),
           end = need_t ? in.by_sample(in.density) : in.none();
    Tensor background = need_background ? in.by_ray(true) : in.none();
    const CompositeGradients<T> out{out_pointer<T>(density), need_color ? out_pointer<T>(color) : nullptr,
                                    need_t ? out_pointer<T>(start) : nullptr,
                                    need_t ? out_pointer<T>(end) : nullptr,
                                    need_background ? out_pointer<T>(background) : nullptr};
    device.backward(in.batch<T>(), g.batch<T>(), out);
    if (need_background && !in.own_background) background = device.template sum_rays<T>(in, background);
    return {density, color, start, end, background};
}

template <typename T, typename Device>
Tensors9 composite_bwd_bwd_typed(const Device& device, const CompositeInputs& in, const CotangentTensors& g,
                                 const CompositeTangents<T>& v) {
    Tensor density = in.by_sample(in.density), color = in.by_sample(in.color);
    Tensor start = in.by_sample(in.density), end = in.by_sample(in.density);
    Tensor background = in.background ? in.by_ray(true) : in.none();
    Tensor grad_color = in.by_ray(true), grad_opacity = in.by_ray(false), grad_depth = in.by_ray(false);
    Tensor grad_weights = in.by_sample(in.density);
    const CompositeSecond<T> out{out_pointer<T>(density),
                                 out_pointer<T>(color),
                                 out_pointer<T>(start),
                                 out_pointer<T>(end),
                                 in.background ? out_pointer<T>(background) : nullptr,
                                 out_pointer<T>(grad_color),
                                 out_pointer<T>(grad_opacity),
                                 out_pointer<T>(grad_depth),
                                 out_pointer<T>(grad_weights)};
    device.second(in.batch<T>(), g.batch<T>(), v, out);
    if (in.background && !in.own_background) background = device.template sum_rays<T>(in, background);
    return {density, color, start, end, background, grad_color, grad_opacity, grad_depth, grad_weights};
}

template <typename Device>
Tensors4 composite_fwd(const Tensor& density, const Tensor& color, const Tensor& t_starts,
                       const Tensor& t_ends, const OptTensor& packed_info, const OptTensor& background,
                       double eps) {
    const typename Device::Guard guard(density);
    CompositeInputs in(density, color, t_starts, t_ends, packed_info, background, eps);
    const Device device(in);
    in.gaps = device.check(in);
    return in.is_double() ? composite_fwd_typed<double>(device, in) : composite_fwd_typed<float>(device, in);
}

template <typename Device>
Tensors5 composite_bwd(const Tensor& density, const Tensor& color, const Tensor& t_starts,
                       const Tensor& t_ends, const OptTensor& packed_info, const OptTensor& background,
                       const OptTensor& grad_color, const OptTensor& grad_opacity,
                       const OptTensor& grad_depth, const OptTensor& grad_weights, double eps,
                       bool need_color, bool need_t, bool need_background) {
    const typename Device::Guard guard(density);
    CompositeInputs in(density, color, t_starts, t_ends, packed_info, background, eps);
    const Device device(in);
    in.gaps = device.check(in);
    const CotangentTensors g(in, grad_color, grad_opacity, grad_depth, grad_weights);
    return in.is_double() ? composite_bwd_typed<double>(device, in, g, need_color, need_t, need_background)
                          : composite_bwd_typed<float>(device, in, g, need_color, need_t, need_background);
}

template <typename Device>
Tensors9 composite_bwd_bwd(const Tensor& density, const Tensor& color, const Tensor& t_starts,
                           const Tensor& t_ends, const OptTensor& packed_info, const OptTensor& background,
                           const OptTensor& grad_color, const OptTensor& grad_opacity,
                           const OptTensor& grad_depth, const OptTensor& grad_weights,
                           const OptTensor& v_density, const OptTensor& v_color, const OptTensor& v_t_starts,
                           const OptTensor& v_t_ends, const OptTensor& v_background, double eps) {
    const typename Device::Guard guard(density);
    CompositeInputs in(density, color, t_starts, t_ends, packed_info, background, eps);
    const Device device(in);
    in.gaps = device.check(in);
    const CotangentTensors g(in, grad_color, grad_opacity, grad_depth, grad_weights);
    const OptTensor v[] = {contiguous_of("v_density", v_density), contiguous_of("v_color", v_color),
                           contiguous_of("v_t_starts", v_t_starts), contiguous_of("v_t_ends", v_t_ends),
                           contiguous_of("v_background", v_background)};
    for (int i : {0, 2, 3}) CotangentTensors::check(in, v[i], in.samples);
    CotangentTensors::check(in, v[1], in.color.numel());
    CotangentTensors::check(in, v[4], in.background ? in.background->numel() : -1);
    const auto typed = [&](auto zero) {
        using T = decltype(zero);
        return composite_bwd_bwd_typed<T>(
            device, in, g,
            {pointer<T>(v[0]), pointer<T>(v[1]), pointer<T>(v[2]), pointer<T>(v[3]), pointer<T>(v[4])});
    };
    return in.is_double() ? typed(double{}) : typed(float{});
}

}  // namespace mclnf

// The tensors of the optimizer step, checked before anything is written. The same on every device; a device
// adds the arithmetic (csrc/cpu/bank_step.cpp, csrc/cuda/bank_step.cu) as a class with a Guard and
//   kPlace and has(tensor): the place that tensors must be in; check_values(name, values, count): refuses
//   numbers that are negative or not finite, if that does not have to wait for the device; step<S>(options,
//   own, streams, sizes).
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "math/common.h"
#include "names.h"
#include "tensors.h"

namespace mclnf {

using Tensors = std::vector<Tensor>;

// The values of one tensor of the bank and what belongs to them; m and v are null for SGD, fisher and anchor
// without a trust region. With a copy of a half type the gradient is of that type, and g is null; without one
// half_g is.
template <typename S>
struct Streams {
    S *p, *m, *v;
    const S *g, *fisher, *anchor;
    uint16_t* copy = nullptr;
    const uint16_t* half_g = nullptr;

    MCLNF_HD Streams from(int64_t at) const {
        return {p + at,
                m ? m + at : m,
                v ? v + at : v,
                g ? g + at : g,
                fisher ? fisher + at : fisher,
                anchor ? anchor + at : anchor,
                copy ? copy + at : copy,
                half_g ? half_g + at : half_g};
    }
};

struct StepOptions {
    int64_t modules;
    bool adam;
    double lr, beta1, beta2, eps, lam;  // lr: if the modules have none of their own
    double weight_decay;
    bool decoupled;
    bool skip_zero;  // modules whose gradients are all 0 make no step
    int half;        // kBf16 or kFp16: of the copies, if any tensor has one; else kFp32
};

// What each module has of its own, on the device; null: all have the same.
struct ModuleValues {
    double* clock;  // steps that it has made
    const double *rates, *scales;
    const bool* active;
};

inline int half_of(ScalarType dtype) {
    return dtype == ScalarType::BFloat16 ? kBf16 : dtype == ScalarType::Half ? kFp16 : kFp32;
}

// The half type that the copies share; float32 if there are none. A copy that is empty and float32 stands for
// one that is missing.
inline ScalarType type_of_copies(const Tensors& copies) {
    for (const Tensor& t : copies)
        if (half_of(t.scalar_type()) != kFp32) return t.scalar_type();
    return ScalarType::Float;
}

inline std::string shape(const Tensor& t) {
    std::string text = "[";
    for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
    return text + "]";
}

template <typename Device>
void check_like(const Device& device, const char* name, size_t i, const Tensor& t, const Tensor& p,
                ScalarType dtype) {
    STD_TORCH_CHECK(device.has(t) && t.scalar_type() == dtype, "bank_step: ", name, "[", i, "] must be ",
                    Device::kPlace, " with the dtype of ",
                    dtype == p.scalar_type() ? "params[0]" : "the copies");
    bool same = t.dim() == p.dim();
    for (int64_t d = 0; same && d < p.dim(); ++d) same = t.size(d) == p.size(d);
    STD_TORCH_CHECK(same, "bank_step: ", name, "[", i, "] must have shape ", shape(p), " like params[", i,
                    "], got ", shape(t));
    check_memory(name, t);
}

template <typename Device>
void check_list(const Device& device, const char* name, const Tensors& list, const Tensors& params,
                ScalarType dtype) {
    STD_TORCH_CHECK(list.size() == params.size(), "bank_step: ", name, " must hold ", params.size(),
                    " tensors like params, got ", list.size());
    for (size_t i = 0; i < list.size(); ++i) check_like(device, name, i, list[i], params[i], dtype);
}

template <typename Device>
void check_numbers(const Device& device, const char* name, const Tensor& t, int64_t modules, ScalarType dtype,
                   const char* kind) {
    STD_TORCH_CHECK(device.has(t) && t.scalar_type() == dtype && t.dim() == 1 && t.size(0) == modules,
                    "bank_step: ", name, " must be ", kind, " [", modules, "] ", Device::kPlace, ", got ",
                    shape(t));
    check_memory(name, t);
}

inline bool usable(double x) { return x >= 0 && std::isfinite(x); }

inline void check_written(const char* name, const Tensor& t) {
    for (int64_t d = 0; d < t.dim(); ++d)
        STD_TORCH_CHECK(t.stride(d) != 0 || t.size(d) <= 1, "bank_step: ", name,
                        " must not be expanded: it is changed in place");
}

// Contiguous tensors with their values; those of another layout are copied, and copied back by `put_back`.
class Values {
  public:
    explicit Values(Tensors list) : list_(std::move(list)) {
        for (size_t i = 0; i < list_.size(); ++i) {
            if (list_[i].is_contiguous()) continue;
            copied_.emplace_back(i, list_[i]);
            list_[i] = torch::stable::contiguous(list_[i]);
        }
    }
    template <typename T>
    const T* read(size_t i) const {
        return list_.empty() ? nullptr : pointer<T>(list_[i]);
    }
    template <typename T>
    T* write(size_t i) const {
        return list_.empty() ? nullptr : out_pointer<T>(list_[i]);
    }
    void put_back() {
        for (auto& [i, original] : copied_) torch::stable::copy_(original, list_[i]);
    }

  private:
    Tensors list_;
    std::vector<std::pair<size_t, Tensor>> copied_;
};

template <typename Device>
void bank_step(Tensors params, Tensors grads, Tensors exp_avg, Tensors exp_avg_sq, Tensor step, OptTensor lr,
               double lr_value, OptTensor active, bool adam, double beta1, double beta2, double eps,
               double lam, Tensors fisher, Tensors anchor, Tensors copies, OptTensor scale,
               double weight_decay, bool decoupled, bool skip_zero) {
    STD_TORCH_CHECK(!params.empty(), "bank_step: params must hold at least one tensor [M, ...]");
    STD_TORCH_CHECK(params[0].dim() > 0, "bank_step: params[0] must be [M, ...], got []");
    const typename Device::Guard guard(params[0]);
    const Device device(params[0]);
    const int64_t modules = params[0].size(0);
    const ScalarType dtype = params[0].scalar_type();
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "bank_step: params must be float32 or float64");
    for (size_t i = 0; i < params.size(); ++i) {
        const Tensor& p = params[i];
        STD_TORCH_CHECK(device.has(p) && p.scalar_type() == dtype && p.dim() > 0 && p.size(0) == modules,
                        "bank_step: params[", i, "] must be [", modules, ", ...] ", Device::kPlace,
                        " with the dtype of params[0], got ", shape(p));
        check_written("params", p);
        check_memory("params", p);
    }
    const ScalarType half_type = type_of_copies(copies);
    const int half = half_of(half_type);
    const auto has_copy = [&](size_t i) { return half != kFp32 && copies[i].scalar_type() == half_type; };
    if (!copies.empty()) {
        STD_TORCH_CHECK(dtype == ScalarType::Float && half != kFp32 && copies.size() == params.size(),
                        "bank_step: copies must hold ", params.size(),
                        " tensors like params, bfloat16 or float16 beside float32 params");
        for (size_t i = 0; i < copies.size(); ++i) {
            if (copies[i].scalar_type() == ScalarType::Float && copies[i].numel() == 0) continue;
            check_like(device, "copies", i, copies[i], params[i], half_type);
            check_written("copies", copies[i]);
        }
    }
    STD_TORCH_CHECK(!scale || half != kFp32, "bank_step: scale must be None without copies");
    STD_TORCH_CHECK(grads.size() == params.size(), "bank_step: grads must hold ", params.size(),
                    " tensors like params, got ", grads.size());
    for (size_t i = 0; i < grads.size(); ++i)
        check_like(device, "grads", i, grads[i], params[i], has_copy(i) ? half_type : dtype);
    if (adam) {
        check_list(device, "exp_avg", exp_avg, params, dtype);
        check_list(device, "exp_avg_sq", exp_avg_sq, params, dtype);
        for (const Tensor& t : exp_avg) check_written("exp_avg", t);
        for (const Tensor& t : exp_avg_sq) check_written("exp_avg_sq", t);
    } else {
        STD_TORCH_CHECK(exp_avg.empty() && exp_avg_sq.empty(),
                        "bank_step: exp_avg and exp_avg_sq must be empty for SGD");
    }
    const bool trust = lam != 0;
    STD_TORCH_CHECK(usable(lam), "bank_step: lam must be finite and at least 0, got ", lam);
    if (trust) {
        check_list(device, "fisher", fisher, params, dtype);
        check_list(device, "anchor", anchor, params, dtype);
    }
    STD_TORCH_CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1,
                    "bank_step: betas must be at least 0 and below 1, got ", beta1, " and ", beta2);
    STD_TORCH_CHECK(eps >= 0, "bank_step: eps must be at least 0, got ", eps);
    STD_TORCH_CHECK(usable(weight_decay), "bank_step: weight_decay must be finite and at least 0, got ",
                    weight_decay);
    check_numbers(device, "step", step, modules, ScalarType::Double, "float64");
    check_written("step", step);
    if (lr) check_numbers(device, "lr", *lr, modules, ScalarType::Double, "float64");
    if (active) check_numbers(device, "active", *active, modules, ScalarType::Bool, "bool");
    if (scale) check_numbers(device, "scale", *scale, modules, ScalarType::Double, "float64");

    Values clock({step}), rates(lr ? Tensors{*lr} : Tensors{}), masks(active ? Tensors{*active} : Tensors{}),
        scales(scale ? Tensors{*scale} : Tensors{});
    device.check_values("step", clock.read<double>(0), modules);
    if (scale) device.check_values("scale", scales.read<double>(0), modules);
    const double* rate = rates.read<double>(0);
    if (rate)
        device.check_values("lr", rate, modules);
    else
        STD_TORCH_CHECK(usable(lr_value), "bank_step: lr must be finite and at least 0, got ", lr_value);

    Values p(params), g(grads), m(exp_avg), v(exp_avg_sq), c(copies);
    Values f(trust ? fisher : Tensors{}), a(trust ? anchor : Tensors{});
    std::vector<int64_t> sizes;
    for (const Tensor& t : params) sizes.push_back(modules ? t.numel() / modules : 0);
    const StepOptions options{modules, adam,         lr_value,  beta1,     beta2, eps,
                              lam,     weight_decay, decoupled, skip_zero, half};
    const ModuleValues own{clock.write<double>(0), rate, scales.read<double>(0), masks.read<bool>(0)};
    const auto run = [&](auto zero) {
        using S = decltype(zero);
        std::vector<Streams<S>> streams;
        for (size_t i = 0; i < params.size(); ++i)
            streams.push_back({p.template write<S>(i), m.template write<S>(i), v.template write<S>(i),
                               has_copy(i) ? nullptr : g.template read<S>(i), f.template read<S>(i),
                               a.template read<S>(i), has_copy(i) ? c.template write<uint16_t>(i) : nullptr,
                               has_copy(i) ? g.template read<uint16_t>(i) : nullptr});
        device.template step<S>(options, own, streams, sizes);
    };
    dtype == ScalarType::Double ? run(double()) : run(float());
    for (Values* written : {&clock, &p, &m, &v, &c}) written->put_back();
}

}  // namespace mclnf

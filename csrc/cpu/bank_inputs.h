// The inputs that every op of a bank has: the network, the points grouped by module, the parameters.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <vector>

#include "bank_plan.h"
#include "run_sums.h"

namespace mclnf {

// int64 [M + 1], from 0 to `total` and never down.
inline std::vector<int64_t> read_offsets(const char* name, const Tensor& t_in, int64_t total) {
    STD_TORCH_CHECK(t_in.is_cpu(), "mclnf_fast: ", name, " must be on the CPU like x");
    STD_TORCH_CHECK(t_in.scalar_type() == ScalarType::Long && t_in.dim() == 1 && t_in.numel() >= 1,
                    "mclnf_fast: ", name, " must be int64 [M + 1]");
    const Tensor t = contiguous_of(name, t_in);
    const int64_t* p = data<int64_t>(t);
    std::vector<int64_t> values(p, p + t.numel());
    STD_TORCH_CHECK(values.front() == 0 && values.back() == total, "mclnf_fast: ", name,
                    " must go from 0 to ", total);
    for (size_t i = 1; i < values.size(); ++i)
        STD_TORCH_CHECK(values[i] >= values[i - 1], "mclnf_fast: ", name, " must not go down");
    return values;
}

template <class S>
struct BankInputs {
    Net net;
    int64_t modules, points;
    Tensor x;
    std::vector<int64_t> offsets;
    ParameterTensors<S> parameters;

    BankInputs(const Tensor& x_in, const Tensor& offsets_in, const Tensors& w, const Tensors& b,
               const std::vector<int64_t>& ints, const std::vector<double>& floats)
        : net(ints, floats) {
        constexpr bool kHalf = std::is_same_v<S, Bf16>;
        STD_TORCH_CHECK(!kHalf || x_in.scalar_type() == ScalarType::Float,
                        "mclnf_fast: x must be float32 for bfloat16 weights: coordinates are never rounded");
        x = plain("x", x_in, x_in.scalar_type());
        STD_TORCH_CHECK(x.dim() == 2 && x.size(1) == net.in_dim, "mclnf_fast: x must be [N, in_dim]");
        points = x.size(0);
        offsets = read_offsets("offsets", offsets_in, points);
        modules = static_cast<int64_t>(offsets.size()) - 1;
        const ScalarType dtype = kHalf ? ScalarType::BFloat16 : x.scalar_type();
        parameters = ParameterTensors<S>("weights and biases", net, modules, w, b, dtype);
    }

    RunParameters<S> run_parameters(const Plan& plan) const {
        return RunParameters<S>(plan, ParameterView<S>(parameters, net));
    }
    // The points begin ... end-1, of one module with these parameters.
    ModulePoints<S> module_points(const Parameters<S>& par, int64_t begin, int64_t end,
                                  const S* saved = nullptr) const {
        return {par, data<Value<S>>(x) + begin * net.in_dim, end - begin, saved};
    }
    // The rows of a tensor [N, out_dim] from a point on.
    const Value<S>* outputs_at(const Tensor& t, int64_t point) const {
        return data<Value<S>>(t) + point * net.out_dim;
    }
    // Whether gradients are so many that the first are gone from the caches before the last are there: they
    // are then written past them. Sums of bf16 go through fp32 memory first, which stays.
    bool streams_gradients() const {
        constexpr size_t kStreamFrom = size_t(64) << 20;
        return !std::is_same_v<S, Bf16> &&
               static_cast<size_t>(modules * net.parameters) * sizeof(S) > kStreamFrom;
    }
    ParameterTensors<S> new_gradients(bool needed = true) const {
        return needed ? ParameterTensors<S>::like(net, modules, parameters) : ParameterTensors<S>();
    }
};

// Calls f(float()) or f(double()) by the dtype of x.
template <class F>
auto by_dtype(const Tensor& x, const F& f) {
    if (x.scalar_type() == ScalarType::Double) return f(double());
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float,
                    "mclnf_fast: the CPU kernels take float32 and float64");
    return f(float());
}

}  // namespace mclnf

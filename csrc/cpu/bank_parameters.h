// The bank's tensors, checked and turned into pointers: parameters, and whatever is shaped like them.
#pragma once

#include <cstdint>
#include <vector>

#include "bank_table.h"
#include "fresh.h"
#include "tensors.h"

namespace mclnf {

using Tensors = std::vector<Tensor>;

template <class S>
const S* data(const Tensor& t) {
    return static_cast<const S*>(t.const_data_ptr());
}
template <class S>
S* mutable_data(const Tensor& t) {
    return static_cast<S*>(t.mutable_data_ptr());
}

inline void check_shape(const char* name, const Tensor& t, std::initializer_list<int64_t> shape) {
    bool same = t.dim() == static_cast<int64_t>(shape.size());
    int64_t d = 0;
    for (const int64_t size : shape) same = same && t.size(d++) == size;
    STD_TORCH_CHECK(same, "mclnf_fast: ", name, " has a wrong shape");
}

// A contiguous tensor of this dtype, or an error that names it.
inline Tensor plain(const char* name, const Tensor& t, ScalarType dtype) {
    STD_TORCH_CHECK(t.is_cpu(), "mclnf_fast: ", name, " must be on the CPU like x");
    STD_TORCH_CHECK(t.scalar_type() == dtype, "mclnf_fast: ", name, " has a dtype other than x");
    return contiguous_of(name, t);
}

// Tensors shaped like the parameters: [M, in, out] and [M, out] per layer.
template <class S>
struct ParameterTensors {
    Tensors weight, bias;

    ParameterTensors() = default;
    ParameterTensors(const char* name, const Net& net, int64_t modules, const Tensors& w, const Tensors& b,
                     ScalarType dtype) {
        STD_TORCH_CHECK(w.size() == net.layers.size() && b.size() == net.layers.size(), "mclnf_fast: ", name,
                        " must hold one tensor a layer");
        const ScalarType wide = kMixed<S> ? ScalarType::Float : dtype;
        for (size_t l = 0; l < net.layers.size(); ++l) {
            weight.push_back(plain(name, w[l], l == 0 ? wide : dtype));
            bias.push_back(plain(name, b[l], wide));
            check_shape(name, weight[l], {modules, net.layers[l].in, net.layers[l].out});
            check_shape(name, bias[l], {modules, net.layers[l].out});
        }
    }
    static ParameterTensors empty(const Net& net, int64_t modules, const Tensor& like) {
        ParameterTensors tensors;
        for (const Layer& layer : net.layers) {
            tensors.weight.push_back(fresh(like, {modules, layer.in, layer.out}));
            tensors.bias.push_back(fresh(like, {modules, layer.out}));
        }
        return tensors;
    }
    // Of the dtypes of `parameters`.
    static ParameterTensors like(const Net& net, int64_t modules, const ParameterTensors& parameters) {
        ParameterTensors tensors;
        for (size_t l = 0; l < net.layers.size(); ++l) {
            tensors.weight.push_back(
                fresh(parameters.weight[l], {modules, net.layers[l].in, net.layers[l].out}));
            tensors.bias.push_back(fresh(parameters.bias[l], {modules, net.layers[l].out}));
        }
        return tensors;
    }
    explicit operator bool() const { return !weight.empty(); }
};

// Pointers to one module's share of such tensors, moved from module to module: to ask a tensor for its
// memory, and the heap for the pointers, takes long beside the few points that a module may have.
template <class S>
class ParameterView {
  public:
    ParameterView() = default;
    explicit ParameterView(const ParameterTensors<S>& tensors, const Net& net, int64_t module = 0) {
        for (size_t l = 0; l < tensors.weight.size(); ++l) {
            const Layer& layer = net.layers[l];
            const bool wide = kMixed<S> && l == 0;
            layers_.push_back({wide ? nullptr : mutable_data<S>(tensors.weight[l]),
                               mutable_data<Value<S>>(tensors.bias[l]), wide ? 0 : layer.weights(),
                               layer.out});
        }
        if (!layers_.empty()) first_ = mutable_data<Value<S>>(tensors.weight[0]);
        first_stride_ = net.layers[0].weights();
        at(module);
    }
    // Buffers of net.parameters values, layer after layer, one module's behind the other's.
    ParameterView(S* flat, const Net& net) {
        for (const Layer& layer : net.layers) {
            S* bias = flat + layer.weights();
            layers_.push_back({flat, bias, net.parameters, net.parameters});
            flat = bias + layer.out;
        }
        first_ = layers_[0].weight;
        first_stride_ = net.parameters;
        at(0);
    }
    ParameterView& at(int64_t module) {
        weight_.resize(layers_.size());
        bias_.resize(layers_.size());
        for (size_t l = 0; l < layers_.size(); ++l) {
            weight_[l] = layers_[l].weight + module * layers_[l].weight_stride;
            bias_[l] = layers_[l].bias + module * layers_[l].bias_stride;
        }
        module_first_ = first_ + module * first_stride_;
        return *this;
    }
    explicit operator bool() const { return !layers_.empty(); }
    Parameters<S> read() const {
        return weight_.empty() ? Parameters<S>{} : Parameters<S>{weight_.data(), bias_.data(), module_first_};
    }
    Gradients<S> write(bool stream = false) {
        return weight_.empty() ? Gradients<S>{} : Gradients<S>{weight_.data(), bias_.data(), stream};
    }
    // f(values, count) on every tensor's share, which may be Value<S>.
    template <class F>
    void each(const Net& net, const F& f) const {
        for (size_t l = 0; l < weight_.size(); ++l) {
            if (l == 0)
                f(module_first_, net.layers[l].weights());
            else
                f(weight_[l], net.layers[l].weights());
            f(bias_[l], static_cast<int64_t>(net.layers[l].out));
        }
    }

  private:
    struct LayerPointers {
        S* weight;
        Value<S>* bias;
        int64_t weight_stride, bias_stride;  // from one module to the next
    };
    std::vector<LayerPointers> layers_;
    std::vector<S*> weight_;
    std::vector<Value<S>*> bias_;
    Value<S>*first_ = nullptr, *module_first_ = nullptr;  // the first layer's weights
    int64_t first_stride_ = 0;
};

}  // namespace mclnf

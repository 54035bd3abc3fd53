// Short names for the parts of torch's stable interface that the kernels use.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>

namespace mclnf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptTensor = std::optional<Tensor>;

inline OptTensor contiguous_or_none(const OptTensor& t) {
    return t.has_value() ? OptTensor(torch::stable::contiguous(*t)) : OptTensor();
}

template <typename T>
const T* pointer(const Tensor& t) {
    return static_cast<const T*>(t.const_data_ptr());
}

template <typename T>
const T* pointer(const OptTensor& t) {
    return t.has_value() ? pointer<T>(*t) : nullptr;
}

template <typename T>
T* out_pointer(const Tensor& t) {
    return static_cast<T*>(t.mutable_data_ptr());
}

}  // namespace mclnf

// Short names for the parts of torch's stable interface that the kernels use.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdint>
#include <optional>

namespace mclnf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptTensor = std::optional<Tensor>;

// Refuses a tensor whose memory was freed or cut short under it, as sharding and offloading do: reading it
// would end the process.
inline void check_memory(const char* name, const Tensor& t) {
    if (t.numel() == 0) return;
    int64_t last = t.storage_offset(), bytes = 0;
    for (int64_t d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride(d);
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(t.get(), &bytes));
    STD_TORCH_CHECK(bytes >= (last + 1) * static_cast<int64_t>(t.element_size()), "mclnf_fast: ", name,
                    " must have memory, but its storage was freed or cut short");
}

// The tensor, contiguous and with memory. Without asking the dispatcher if it is contiguous already: a call
// through it costs microseconds.
inline Tensor contiguous_of(const char* name, const Tensor& t) {
    check_memory(name, t);
    return t.is_contiguous() ? t : torch::stable::contiguous(t);
}
inline OptTensor contiguous_of(const char* name, const OptTensor& t) {
    return t.has_value() ? OptTensor(contiguous_of(name, *t)) : OptTensor();
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

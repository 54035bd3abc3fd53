// The arguments of the fits, checked as far as that goes without waiting for the device.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "cuda/launch.h"
#include "fit_arguments.h"
#include "math/draws.h"
#include "net.h"

namespace mclnf {
namespace {

inline void check_numbers(const FitArguments& in, const Net& net, ScalarType dtype, bool guided = false) {
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "bank_fit: x must be float32 or float64");
    STD_TORCH_CHECK(
        in.precision == kFp32 || (dtype == ScalarType::Float && in.precision > 0 && in.precision <= kFp16),
        "bank_fit: unknown precision, or one that float64 does not take");
    STD_TORCH_CHECK(in.modules() <= 0x3fffffff, "bank_fit: too many modules for one launch");
    STD_TORCH_CHECK(in.rule >= kDrawUniform && in.rule <= kDrawGuided, "bank_fit: unknown rule");
    STD_TORCH_CHECK((in.rule == kDrawGuided) == guided,
                    "bank_fit: the rule `guided` is that of bank_guided_fit, on points");
    STD_TORCH_CHECK(!guided || in.precision == kFp32,
                    "bank_fit: products of the rule `guided` are fp32 (or fp64) alone");
    STD_TORCH_CHECK(in.rule == kDrawWhole || (in.batch >= 1 && in.batch <= int64_t(1) << 31),
                    "bank_fit: batch out of range");
    STD_TORCH_CHECK(in.task >= 0 && in.task <= kMaxDrawTask, "bank_fit: task out of range");
    STD_TORCH_CHECK(in.sgd_steps >= 0 && in.check_every >= 1,
                    "bank_fit: sgd_steps or check_every out of range");
    STD_TORCH_CHECK(in.frozen_layers >= 0 && in.frozen_layers < static_cast<int64_t>(net.layers.size()),
                    "bank_fit: frozen_layers out of range");
    STD_TORCH_CHECK(in.rule != kDrawGiven || in.ids, "bank_fit: the rule `given` needs ids");
}

// Looks at tensors: on the device of x, with its dtype, of a shape.
class FitChecks {
  public:
    FitChecks(const Tensor& x, const Net& net, int64_t modules) : x_(x), net_(net), modules_(modules) {}

    Tensor checked(const char* name, const Tensor& t, ScalarType dtype, std::vector<int64_t> shape) const {
        STD_TORCH_CHECK(t.is_cpu() == x_.is_cpu() && t.get_device_index() == x_.get_device_index() &&
                            t.scalar_type() == dtype,
                        "bank_fit: ", name, " must be on the device of x, with its dtype");
        bool same = t.dim() == static_cast<int64_t>(shape.size());
        for (int64_t d = 0; same && d < t.dim(); ++d) same = shape[d] < 0 || t.size(d) == shape[d];
        STD_TORCH_CHECK(same, "bank_fit: ", name, " has a wrong shape");
        return contiguous_of(name, t);
    }
    OptTensor checked(const char* name, const OptTensor& t, ScalarType dtype,
                      std::vector<int64_t> shape) const {
        return t ? OptTensor(checked(name, *t, dtype, std::move(shape))) : OptTensor();
    }
    // Tensors like the parameters; those that are changed must not be expanded.
    Values bank(const char* name, const Tensors& list, bool needed, bool changed) const {
        if (!needed) return Values({});
        STD_TORCH_CHECK(list.size() == 2 * net_.layers.size(), "bank_fit: ", name,
                        " must hold two tensors a layer");
        for (size_t t = 0; t < list.size(); ++t) {
            const Layer& layer = net_.layers[t / 2];
            const std::vector<int64_t> shape = t % 2 == 0
                                                   ? std::vector<int64_t>{modules_, layer.in, layer.out}
                                                   : std::vector<int64_t>{modules_, layer.out};
            checked(name, list[t], x_.scalar_type(), shape);
            if (changed) check_written(name, list[t]);
        }
        return Values(list);
    }

  private:
    const Tensor& x_;
    const Net& net_;
    int64_t modules_;
};

// Bytes as a parameter of a kernel, which may have 4 KB.
template <int kSize>
struct ListBytes {
    unsigned char values[kSize];
};

template <int kSize>
__global__ void __launch_bounds__(kThreads)
    list_kernel(const __grid_constant__ ListBytes<kSize> bytes, int64_t count, unsigned char* to) {
    const int64_t i = this_thread();
    if (i < count) to[i] = bytes.values[i];
}

// A list on the host as a tensor of bytes on the device. As parameters: a CUDA graph would copy from the
// host's memory at every replay, when the list is gone.
template <typename T>
Tensor on_device(const std::vector<T>& list, const Tensor& like, cudaStream_t stream) {
    constexpr int64_t kAtOnce = 2048;
    const int64_t bytes = static_cast<int64_t>(list.size() * sizeof(T));
    const Tensor to = torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
    const unsigned char* from = reinterpret_cast<const unsigned char*>(list.data());
    for (int64_t begin = 0; begin < bytes; begin += kAtOnce) {
        const int64_t count = std::min(kAtOnce, bytes - begin);
        ListBytes<kAtOnce> part;
        std::memcpy(part.values, from + begin, static_cast<size_t>(count));
        launch(list_kernel<kAtOnce>, blocks_for(count), kThreads, 0, stream, part, count,
               out_pointer<unsigned char>(to) + begin);
        check_cuda(cudaGetLastError(), "bank_fit: a list");
    }
    return to;
}

}  // namespace
}  // namespace mclnf

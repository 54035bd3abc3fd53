// New tensors that are about to be written whole.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

namespace mclnf {

#if defined(__linux__)
// Large blocks, used again once their tensor is gone. The gradients of a thousand modules are a hundred
// megabytes that live for one step; given back to the system each time, the first touch of their pages and
// the zeros that the system writes there cost as much as computing them. Large pages are asked for if the
// system leaves that to the program.
class Blocks {
  public:
    static constexpr size_t kPage = size_t(2) << 20, kMinBytes = 2 * kPage;

    // Never destroyed: tensors may outlive every static.
    static Blocks& shared() {
        static Blocks* blocks = new Blocks;
        return *blocks;
    }
    static size_t rounded(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }
    bool takes(size_t bytes) const { return bytes >= kMinBytes && max_free_bytes_ > 0; }

    void* take(size_t bytes) {
        bytes = rounded(bytes);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            for (size_t i = free_.size(); i-- > 0;)  // the last one returned is the likeliest in a cache
                if (free_[i].bytes == bytes) {
                    void* at = free_[i].at;
                    free_bytes_ -= bytes;
                    free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(i));
                    return at;
                }
        }
        void* at = mmap(nullptr, bytes + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) return nullptr;
        // The part that begins on a large page, and nothing else.
        const uintptr_t begin = reinterpret_cast<uintptr_t>(at), first = (begin + kPage - 1) / kPage * kPage;
        if (first > begin) munmap(at, first - begin);
        if (begin + kPage > first) munmap(reinterpret_cast<void*>(first + bytes), begin + kPage - first);
        madvise(reinterpret_cast<void*>(first), bytes, MADV_HUGEPAGE);
        return reinterpret_cast<void*>(first);
    }
    void give(void* at, size_t bytes) {
        bytes = rounded(bytes);
        const std::lock_guard<std::mutex> lock(mutex_);
        free_.push_back({at, bytes});
        free_bytes_ += bytes;
        while (free_bytes_ > max_free_bytes_) {  // the oldest first
            munmap(free_.front().at, free_.front().bytes);
            free_bytes_ -= free_.front().bytes;
            free_.erase(free_.begin());
        }
    }

  private:
    struct Block {
        void* at;
        size_t bytes;
    };
    Blocks() {
        // Bytes of free blocks that stay mapped.
        const char* megabytes = std::getenv("MCLNF_FAST_POOL_MB");
        if (megabytes == nullptr) return;
        const std::string digits = megabytes;
        STD_TORCH_CHECK(
            !digits.empty() && digits.size() <= 9 &&
                digits.find_first_not_of("0123456789") == std::string::npos,
            "the environment variable MCLNF_FAST_POOL_MB must be a whole number of megabytes, got '", digits,
            "'");
        max_free_bytes_ = static_cast<size_t>(std::stoull(digits)) << 20;
    }

    std::mutex mutex_;
    std::vector<Block> free_;
    size_t free_bytes_ = 0, max_free_bytes_ = size_t(1) << 30;
};
#endif

// Whether new tensors begin as NaN, which a test finds if a kernel leaves a value unset.
inline bool poisons() {
    static const bool asked = std::getenv("MCLNF_POISON") != nullptr;
    return asked;
}

constexpr size_t kMaxDims = 4;

// A new contiguous CPU tensor of the dtype of `like`, of at most kMaxDims dimensions. Its values are unset.
inline torch::stable::Tensor fresh(const torch::stable::Tensor& like, std::initializer_list<int64_t> shape) {
    STD_TORCH_CHECK(shape.size() <= kMaxDims, "mclnf_fast: a new tensor has too many dimensions");
    int64_t strides[kMaxDims];
    int64_t stride = 1;
    for (size_t d = shape.size(); d-- > 0; stride *= std::max<int64_t>(1, shape.begin()[d]))
        strides[d] = stride;
    size_t bytes = like.element_size();
    for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
#if defined(__linux__)
    if (Blocks::shared().takes(bytes))
        if (void* at = Blocks::shared().take(bytes)) {
            if (poisons()) std::memset(at, 0xff, bytes);
            return torch::stable::from_blob(at, {shape.begin(), shape.size()}, {strides, shape.size()},
                                            like.device(), like.scalar_type(),
                                            [bytes](void* block) { Blocks::shared().give(block, bytes); });
        }
#endif
    // Not new_empty: the way through the dispatcher takes microseconds, and a small call makes ten tensors.
    int32_t dtype = 0, device = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
    AtenTensorHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.begin(),
                                                    strides, dtype, device, 0, &handle));
    torch::stable::Tensor made(handle);
    if (poisons()) std::memset(made.mutable_data_ptr(), 0xff, bytes);
    return made;
}

}  // namespace mclnf

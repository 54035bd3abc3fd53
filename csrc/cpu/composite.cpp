// Alpha compositing on the CPU: threads share the rays, the arithmetic is csrc/math/composite*.h.
#include <torch/csrc/stable/library.h>

#include "composite_tensors.h"
#include "rays.h"

namespace mclnf {
namespace {

// Samples side by side. Doubles go one by one: their exponentials are calls of the library.
template <typename T>
struct Wide {
    using V = T;
};
#ifdef MCLNF_WIDE
template <>
struct Wide<float> {
    using V = Float8;
};
#endif

// Clones can't be templates, hence one function per type.
#define MCLNF_EACH_RAY(RAY, T, ...)                                                        \
    if (in.channels == 3) {                                                                \
        for (int64_t r = begin; r < end; ++r) RAY<3, typename Wide<T>::V>(__VA_ARGS__, r); \
    } else {                                                                               \
        for (int64_t r = begin; r < end; ++r) RAY<0, typename Wide<T>::V>(__VA_ARGS__, r); \
    }
#define MCLNF_COMPOSITE_SHARES(T)                                                                          \
    MCLNF_CLONES void forward_share(const CompositeBatch<T>& in, const CompositeOutputs<T>& out,           \
                                    int64_t begin, int64_t end){MCLNF_EACH_RAY(                            \
        forward_ray, T, in,                                                                                \
        out)} MCLNF_CLONES void backward_share(const CompositeBatch<T>& in, const BatchCotangents<T>& g,   \
                                               const CompositeGradients<T>& out, int64_t begin,            \
                                               int64_t end){MCLNF_EACH_RAY(                                \
        backward_ray, T, in, g,                                                                            \
        out)} MCLNF_CLONES void second_share(const CompositeBatch<T>& in, const BatchCotangents<T>& g,     \
                                             const CompositeTangents<T>& v, const CompositeSecond<T>& out, \
                                             int64_t begin, int64_t end) {                                 \
        MCLNF_EACH_RAY(second_ray, T, in, g, v, out)                                                       \
    }
MCLNF_COMPOSITE_SHARES(float)
MCLNF_COMPOSITE_SHARES(double)

// Rays of a share are worked through in order. If each sample is some ray's, the memory behind a ray is the
// next one's, up to the end of the share: a group in part may write it whole, which is faster than lane by
// lane.
template <typename T>
CompositeBatch<T> open_share(const CompositeBatch<T>& in, int64_t end) {
    CompositeBatch<T> share = in;
    if (share.open > 0) share.open = end < in.rays ? in.first(end) : in.samples;
    return share;
}

struct Cpu {
    struct Guard {
        explicit Guard(const Tensor&) {}
    };

    explicit Cpu(const CompositeInputs&) {}

    static bool check(const CompositeInputs& in) {
        if (!in.packed_info) return false;
        const int64_t* segments = pointer<int64_t>(*in.packed_info);
        int64_t end = 0, covered = 0;
        for (int64_t r = 0; r < in.rays; ++r) {
            const int64_t first = segments[2 * r], count = segments[2 * r + 1];
            STD_TORCH_CHECK(first >= end && count >= 0 && first <= in.samples && count <= in.samples - first,
                            "composite: packed_info[", r, "] must be (first >= ", end,
                            ", count >= 0) with first + count <= ", in.samples, ", got (", first, ", ", count,
                            ")");
            end = first + count;
            covered += count;
        }
        return covered < in.samples;
    }

    template <typename T, typename F>
    static void share(const CompositeBatch<T>& in, const F& f) {
        parallel_rays(in.rays, [&](int64_t r) { return in.count(r) + 8; }, f);
    }

    template <typename T>
    static void forward(const CompositeBatch<T>& in, const CompositeOutputs<T>& out) {
        share(in, [&](int64_t begin, int64_t end) { forward_share(open_share(in, end), out, begin, end); });
    }

    template <typename T>
    static void backward(const CompositeBatch<T>& in, const BatchCotangents<T>& g,
                         const CompositeGradients<T>& out) {
        share(in,
              [&](int64_t begin, int64_t end) { backward_share(open_share(in, end), g, out, begin, end); });
    }

    template <typename T>
    static void second(const CompositeBatch<T>& in, const BatchCotangents<T>& g,
                       const CompositeTangents<T>& v, const CompositeSecond<T>& out) {
        share(in,
              [&](int64_t begin, int64_t end) { second_share(open_share(in, end), g, v, out, begin, end); });
    }

    // [R, C] -> [C], in blocks of a fixed size whose sums are added in order: the number of threads changes
    // nothing.
    template <typename T>
    static Tensor sum_rays(const CompositeInputs& in, const Tensor& by_ray) {
        Tensor sum = torch::stable::new_empty(in.density, {in.channels});
        const int64_t block = 4096, blocks = (in.rays + block - 1) / block, channels = in.channels;
        std::vector<double> partial(static_cast<size_t>(blocks * channels), 0.0);
        const T* from = pointer<T>(by_ray);
        torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; ++b) {
                for (int64_t r = b * block; r < std::min(in.rays, (b + 1) * block); ++r) {
                    for (int64_t c = 0; c < channels; ++c)
                        partial[b * channels + c] += from[r * channels + c];
                }
            }
        });
        for (int64_t c = 0; c < channels; ++c) {
            double total = 0;
            for (int64_t b = 0; b < blocks; ++b) total += partial[b * channels + c];
            out_pointer<T>(sum)[c] = static_cast<T>(total);
        }
        return sum;
    }
};

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("composite_fwd", TORCH_BOX(&mclnf::composite_fwd<mclnf::Cpu>));
    m.impl("composite_bwd", TORCH_BOX(&mclnf::composite_bwd<mclnf::Cpu>));
    m.impl("composite_bwd_bwd", TORCH_BOX(&mclnf::composite_bwd_bwd<mclnf::Cpu>));
}

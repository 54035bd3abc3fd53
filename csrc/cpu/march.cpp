// Marching on the CPU: count the kept bins and store their bits, sum the counts, write. The arithmetic is
// csrc/math/march.h.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "march_tensors.h"
#include "rays.h"

namespace mclnf {
namespace {

constexpr int kTile = 64;  // bins at a time: the bits of a word

template <typename T>
MCLNF_INLINE int64_t keep_bins(const March<T>& in, const MarchedRay<T>& ray, uint64_t* words) {
    double depth = 0;
    int64_t count = 0;
    T edges[kTile + 1];
    for (int64_t at = 0; at < ray.bins; at += kTile) {
        const int m = static_cast<int>(std::min<int64_t>(ray.bins - at, kTile));
        march_edges(in, ray, static_cast<int32_t>(at), m, edges);
        uint64_t word = march_keep<kTile>(in, ray, m, edges, depth);
        *words++ = word;
        for (; word; word &= word - 1) ++count;
    }
    return count;
}

template <typename T>
MCLNF_INLINE void write_bins(const March<T>& in, const MarchedRay<T>& ray, const uint64_t* words, T* starts,
                             T* ends) {
    T edges[kTile + 1];
    for (int64_t at = 0; at < ray.bins; at += kTile) {
        uint64_t word = *words++;
        if (!word) continue;
        const int m = static_cast<int>(std::min<int64_t>(ray.bins - at, kTile));
        march_edges(in, ray, static_cast<int32_t>(at), m, edges);
        if (m == kTile && word == ~uint64_t(0)) {  // all kept: copies that vectorize
            for (int j = 0; j < kTile; ++j) {
                *starts++ = edges[j];
                *ends++ = edges[j + 1];
            }
            continue;
        }
        for (; word; word &= word - 1) {
            const int j = first_bit(word);
            *starts++ = edges[j];
            *ends++ = edges[j + 1];
        }
    }
}

template <typename T>
struct MarchOutputs {
    T *starts, *ends;
    int64_t* ids;
};

// Clones can't be templates, hence one function per type.
#define MCLNF_MARCH_SHARES(T)                                                                               \
    MCLNF_CLONES void keep_share(const March<T>& in, const MarchedRay<T>* rays, const int64_t* first_word,  \
                                 uint64_t* words, int64_t* segments, int64_t begin, int64_t end) {          \
        for (int64_t r = begin; r < end; ++r)                                                               \
            segments[2 * r + 1] = keep_bins(in, rays[r], words + first_word[r]);                            \
    }                                                                                                       \
    MCLNF_CLONES void write_share(const March<T>& in, const MarchedRay<T>* rays, const int64_t* first_word, \
                                  const uint64_t* words, const int64_t* segments,                           \
                                  const MarchOutputs<T>& out, int64_t begin, int64_t end) {                 \
        for (int64_t r = begin; r < end; ++r) {                                                             \
            const int64_t at = segments[2 * r], count = segments[2 * r + 1];                                \
            write_bins(in, rays[r], words + first_word[r], out.starts + at, out.ends + at);                 \
            for (int64_t i = 0; i < count; ++i) out.ids[at + i] = r;                                        \
        }                                                                                                   \
    }
MCLNF_MARCH_SHARES(float)
MCLNF_MARCH_SHARES(double)

using Samples = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <typename T>
Samples march_typed(const MarchInputs& inputs) {
    const March<T> in = inputs.march<T>();
    const int64_t rays = inputs.rays;
    std::vector<MarchedRay<T>> marched(static_cast<size_t>(rays));
    torch::stable::parallel_for(0, rays, 1024, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) marched[r] = march_begin(in, r);
    });
    // Two passes over the bins, with a bit for each in between: the number of samples is known before memory
    // is taken for them, and the write pass need not look at the cells again.
    std::vector<int64_t> first_word(static_cast<size_t>(rays) + 1, 0);
    for (int64_t r = 0; r < rays; ++r) {
        MarchInputs::check_bins(marched[r].bins, inputs.step);
        first_word[r + 1] = first_word[r] + (marched[r].bins + kTile - 1) / kTile;
    }
    std::vector<uint64_t> words(static_cast<size_t>(first_word[rays]));

    Tensor packed_info = torch::stable::new_empty(inputs.origins, {rays, 2}, ScalarType::Long);
    int64_t* segments = out_pointer<int64_t>(packed_info);
    const auto work = [&](int64_t r) { return marched[r].bins + 8; };  // 8: a ray without a bin costs as much
    parallel_rays(rays, work, [&](int64_t begin, int64_t end) {
        keep_share(in, marched.data(), first_word.data(), words.data(), segments, begin, end);
    });
    int64_t total = 0;
    for (int64_t r = 0; r < rays; ++r) {
        segments[2 * r] = total;
        total += segments[2 * r + 1];
    }
    Tensor starts = torch::stable::new_empty(inputs.origins, {total});
    Tensor ends = torch::stable::new_empty(inputs.origins, {total});
    Tensor ids = torch::stable::new_empty(inputs.origins, {total}, ScalarType::Long);
    const MarchOutputs<T> out{out_pointer<T>(starts), out_pointer<T>(ends), out_pointer<int64_t>(ids)};
    parallel_rays(rays, work, [&](int64_t begin, int64_t end) {
        write_share(in, marched.data(), first_word.data(), words.data(), segments, out, begin, end);
    });
    return {starts, ends, ids, packed_info};
}

Samples march_rays_fwd(const Tensor& origins, const Tensor& directions, const OptTensor& occupancy,
                       const Tensor& aabb, const OptTensor& near, const OptTensor& far, double near_value,
                       double far_value, int64_t bins, double step, bool stratified, int64_t seed,
                       double early_stop_eps) {
    const MarchInputs in(origins, directions, occupancy, aabb, near, far, near_value, far_value, bins, step,
                         stratified, seed, early_stop_eps);
    return in.is_double() ? march_typed<double>(in) : march_typed<float>(in);
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) { m.impl("march_rays_fwd", TORCH_BOX(&mclnf::march_rays_fwd)); }

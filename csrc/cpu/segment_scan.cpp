// Scans over the segments of a flat tensor on the CPU: h = factor h + term, from one sample of a segment to
// the next. The state is a double, as in torch.cumsum.
#include <torch/csrc/stable/library.h>

#include "rays.h"
#include "scan_tensors.h"

namespace mclnf {
namespace {

template <typename T>
struct ScanRows {
    const T *factor, *term;
    T* out;
    double initial;
    bool exclusive;
    int64_t by;  // 1, or -1: from the last sample of a segment to its first
};

template <bool kFactor, bool kTerm, typename T>
void scan_row(const ScanRows<T>& in, int64_t first, int64_t count) {
    double h = in.initial;
    for (int64_t i = in.by > 0 ? first : first + count - 1, k = 0; k < count; ++k, i += in.by) {
        const double before = h;
        if (kFactor) h = static_cast<double>(in.factor[i]) * h;
        if (kTerm) h = h + static_cast<double>(in.term[i]);
        in.out[i] = static_cast<T>(in.exclusive ? before : h);
    }
}

// Whether the segments, in order, tile the samples. Raises if one leaves them, or if two share a sample.
bool check_segments(const int64_t* segments, int64_t rows, int64_t size) {
    const auto refuse = [&](bool good, int64_t r) {
        STD_TORCH_CHECK(good, "segment_scan: packed_info must hold (first, count) within the ", size,
                        " samples and without overlap, got packed_info[", r, "] = [", segments[2 * r], ", ",
                        segments[2 * r + 1], "]");
    };
    bool tiles = true, ordered = true;
    int64_t end = 0;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t first = segments[2 * r], count = segments[2 * r + 1];
        refuse(first >= 0 && count >= 0 && count <= size - first, r);
        if (count == 0) continue;
        tiles = tiles && first == end;
        ordered = ordered && first >= end;
        end = first + count;
    }
    if (ordered) return tiles && end == size;
    std::vector<bool> taken(static_cast<size_t>(size), false);
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t k = 0; k < segments[2 * r + 1]; ++k) {
            refuse(!taken[segments[2 * r] + k], r);
            taken[segments[2 * r] + k] = true;
        }
    }
    return false;
}

template <typename T>
Tensor scan_typed(const ScanInputs& inputs, double initial, bool exclusive, bool reverse) {
    const int64_t* segments = pointer<int64_t>(inputs.packed_info);
    const bool tiles = check_segments(segments, inputs.rows, inputs.size);
    Tensor out = torch::stable::new_empty(inputs.values(), {inputs.size});
    if (!tiles) torch::stable::zero_(out);  // samples of no segment
    const ScanRows<T> in{
        pointer<T>(inputs.factor), pointer<T>(inputs.term), out_pointer<T>(out), initial, exclusive,
        reverse ? -1 : 1};
    parallel_rays(
        inputs.rows, [&](int64_t r) { return segments[2 * r + 1] + 1; },
        [&](int64_t begin, int64_t last) {
            for (int64_t r = begin; r < last; ++r) {
                const int64_t first = segments[2 * r], count = segments[2 * r + 1];
                if (!in.term) {
                    scan_row<true, false>(in, first, count);
                } else if (!in.factor) {
                    scan_row<false, true>(in, first, count);
                } else {
                    scan_row<true, true>(in, first, count);
                }
            }
        });
    return out;
}

Tensor segment_scan_fwd(const OptTensor& factor, const OptTensor& term, const Tensor& packed_info,
                        double initial, bool exclusive, bool reverse) {
    const ScanInputs in(factor, term, packed_info);
    return in.is_double() ? scan_typed<double>(in, initial, exclusive, reverse)
                          : scan_typed<float>(in, initial, exclusive, reverse);
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("segment_scan_fwd", TORCH_BOX(&mclnf::segment_scan_fwd));
}

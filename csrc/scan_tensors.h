// The tensors of the scan over segments, checked; the same on every device.
#pragma once

#include "tensors.h"

namespace mclnf {

// factor and term float [N], one of them may be absent; packed_info int64 [R, 2], whose values are not
// checked here.
struct ScanInputs {
    OptTensor factor, term;
    Tensor packed_info;
    int64_t rows, size;

    ScanInputs(const OptTensor& factor_, const OptTensor& term_, const Tensor& packed_info_)
        : factor(contiguous_of("factor", factor_)),
          term(contiguous_of("term", term_)),
          packed_info(contiguous_of("packed_info", packed_info_)),
          rows(packed_info.size(0)) {
        STD_TORCH_CHECK(factor || term, "segment_scan: factor or term must be there");
        const Tensor& like = values();
        size = like.numel();
        STD_TORCH_CHECK(like.scalar_type() == ScalarType::Float || like.scalar_type() == ScalarType::Double,
                        "segment_scan: factor and term must be float32 or float64");
        STD_TORCH_CHECK(
            !factor || !term ||
                (factor->numel() == term->numel() && factor->scalar_type() == term->scalar_type()),
            "segment_scan: factor and term must be alike");
        STD_TORCH_CHECK(packed_info.numel() == 2 * rows && packed_info.scalar_type() == ScalarType::Long,
                        "segment_scan: packed_info must be int64 [R, 2]");
    }

    const Tensor& values() const { return factor ? *factor : *term; }
    bool is_double() const { return values().scalar_type() == ScalarType::Double; }
};

}  // namespace mclnf

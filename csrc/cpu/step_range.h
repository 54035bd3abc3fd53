// The optimizer step over a range of values, which the ops `bank_step` and `bank_fit` share.
#pragma once

#include "bank_step_tensors.h"
#include "math/bank_step.h"

namespace mclnf {

// Steps n values: Adam if the streams have moments, with a trust region if they have a Fisher matrix.
void step_range(const StepFactors<float>& factors, const Streams<float>& values, int64_t n);
void step_range(const StepFactors<double>& factors, const Streams<double>& values, int64_t n);
// The same from gradients of a half type, with a copy of that type.
void step_range_bf16(const StepFactors<float>& factors, const Streams<float>& values, int64_t n);
void step_range_fp16(const StepFactors<float>& factors, const Streams<float>& values, int64_t n);

// Whether one of n values is not 0 (or is NaN); of a half type by its bits.
bool any_nonzero(const float* values, int64_t n);
bool any_nonzero(const double* values, int64_t n);
bool any_nonzero(const uint16_t* values, int64_t n);

// The largest magnitude of n values; not a finite number if one of them is none.
float largest(const float* values, int64_t n);
double largest(const double* values, int64_t n);

}  // namespace mclnf

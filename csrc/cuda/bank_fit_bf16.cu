// The kernels of `bank_fit` and `bank_ray_fit` with operands in bf16.
#include "fit/kernel.h"

namespace mclnf {

template void launch_fit<float, kBf16, false, false>(FitCall<float>&, const Tensor&, cudaStream_t);
template void launch_fit<float, kBf16, true, false>(FitCall<float>&, const Tensor&, cudaStream_t);

}  // namespace mclnf

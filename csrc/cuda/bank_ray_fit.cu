// The kernels of `bank_ray_fit`: see bank_fit.cu, which has the op.
#include "fit/kernel.h"

namespace mclnf {

template void launch_fit<float, kFp32, true, false>(FitCall<float>&, const Tensor&, cudaStream_t);
template void launch_fit<double, kFp32, true, false>(FitCall<double>&, const Tensor&, cudaStream_t);

}  // namespace mclnf

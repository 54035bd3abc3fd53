// The kernels of `bank_guided_fit`: see bank_fit.cu, which has the op. Apart from those of other draws, which
// they would cost registers and instructions.
#include "fit/kernel.h"

namespace mclnf {

template void launch_fit<float, kFp32, false, true>(FitCall<float>&, const Tensor&, cudaStream_t);
template void launch_fit<double, kFp32, false, true>(FitCall<double>&, const Tensor&, cudaStream_t);

}  // namespace mclnf

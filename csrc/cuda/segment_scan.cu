// Scans over the segments of a flat tensor on CUDA: h = factor h + term, one warp per segment, 32 samples at
// a time. The lanes' maps h -> factor h + term are composed over growing distances, in a fixed order.
//
// The bottleneck (estimated): memory, read and written in whole lines.
#include "launch.h"
#include "scan_tensors.h"

namespace mclnf {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T>
struct ScanRows {
    const T *factor, *term;
    const int64_t* segments;  // [R, 2]
    T* out;
    int64_t rows, size;
    T initial;
    bool exclusive, reverse;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) scan_kernel(ScanRows<T> in) {
    const int64_t r = this_thread() / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    if (r >= in.rows) return;
    int64_t first = in.segments[2 * r], end = first + in.segments[2 * r + 1];
    // A wrong segment may not write beyond the tensor: its values are not checked on this device.
    first = first > 0 ? first : 0;
    end = end < in.size ? end : in.size;
    T state = in.initial;
    for (int64_t done = 0; done < end - first; done += 32) {
        const bool mine = done + lane < end - first;
        const int64_t i = in.reverse ? end - 1 - done - lane : first + done + lane;
        T factor = mine && in.factor ? in.factor[i] : T(1);
        T term = mine && in.term ? in.term[i] : T(0);
        for (int by = 1; by < 32; by *= 2) {
            const T factor_before = __shfl_up_sync(kAllLanes, factor, by);
            const T term_before = __shfl_up_sync(kAllLanes, term, by);
            if (lane < by) continue;
            // Without a factor nothing is multiplied: an infinite sum times 1 is fine, times 0 it would not
            // be.
            term = in.factor ? factor * term_before + term : term_before + term;
            factor = factor * factor_before;
        }
        const T here = in.factor ? factor * state + term : state + term;
        T before = __shfl_up_sync(kAllLanes, here, 1);
        before = lane == 0 ? state : before;
        if (mine) in.out[i] = in.exclusive ? before : here;
        state = __shfl_sync(kAllLanes, here, 31);
    }
}

template <typename T>
Tensor scan_typed(const ScanInputs& inputs, double initial, bool exclusive, bool reverse) {
    Tensor out = torch::stable::new_empty(inputs.values(), {inputs.size});
    torch::stable::zero_(out);  // samples of no segment
    if (inputs.rows == 0 || inputs.size == 0) return out;
    const ScanRows<T> in{pointer<T>(inputs.factor),
                         pointer<T>(inputs.term),
                         pointer<int64_t>(inputs.packed_info),
                         out_pointer<T>(out),
                         inputs.rows,
                         inputs.size,
                         static_cast<T>(initial),
                         exclusive,
                         reverse};
    launch(scan_kernel<T>, blocks_for(inputs.rows, kThreads / 32), kThreads, 0,
           current_stream(inputs.values()), in);
    check_cuda(cudaGetLastError(), "segment_scan");
    return out;
}

Tensor segment_scan_fwd(const OptTensor& factor, const OptTensor& term, const Tensor& packed_info,
                        double initial, bool exclusive, bool reverse) {
    const ScanInputs in(factor, term, packed_info);
    const DeviceOf guard(in.values());
    return in.is_double() ? scan_typed<double>(in, initial, exclusive, reverse)
                          : scan_typed<float>(in, initial, exclusive, reverse);
}

}  // namespace
}  // namespace mclnf

MCLNF_CUDA_OPS(m) { m.impl("segment_scan_fwd", TORCH_BOX(&mclnf::segment_scan_fwd)); }

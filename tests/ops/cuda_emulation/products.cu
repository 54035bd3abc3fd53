// The products of `bank_fit` by the tensor cores, as an op.
#include "cuda/fit/tensor_products.h"

namespace mclnf {
namespace {

template <int kPrecision, bool kAlongA, bool kAlongB>
__global__ void product_kernel(const float* a, const float* b, int rows, int columns, int a_stride,
                               int b_stride, int k, float* out, int out_stride) {
    tensor_product<kPrecision>(
        FitTeam::all(), Factor<kAlongA>{rows, a_stride}, Factor<kAlongB>{columns, b_stride},
        Range<float>{a, b, k},
        [&](int r, int c, auto chunk) { write_chunk(out + r * out_stride + c, chunk); });
}

// a [rows, k] if along_a, otherwise [k, rows]; b [columns, k] or [k, columns]; of both, rows of memory are as
// long as they must be. -> [rows, columns], rows and columns being the first `a_count` and `b_count`.
Tensor fit_product(Tensor a, Tensor b, bool along_a, bool along_b, int64_t a_count, int64_t b_count,
                   int64_t precision, int64_t warps) {
    const Tensor out = torch::stable::new_empty(a, {a_count, (b_count + 3) / 4 * 4});
    const auto run = [&](auto kernel) {
        launch(kernel, 1u, static_cast<unsigned>(32 * warps), 0, nullptr, pointer<float>(a),
               pointer<float>(b), static_cast<int>(a_count), static_cast<int>(b_count),
               static_cast<int>(a.size(1)), static_cast<int>(b.size(1)),
               static_cast<int>(along_a ? a.size(1) : a.size(0)) / 16 * 16, out_pointer<float>(out),
               static_cast<int>(out.size(1)));
    };
    const auto with = [&](auto format) {
        constexpr int kPrecision = decltype(format)::value;
        if (along_a)
            along_b ? run(product_kernel<kPrecision, true, true>)
                    : run(product_kernel<kPrecision, true, false>);
        else
            along_b ? run(product_kernel<kPrecision, false, true>)
                    : run(product_kernel<kPrecision, false, false>);
    };
    if (precision == kTf32) with(std::integral_constant<int, kTf32>());
    if (precision == kBf16) with(std::integral_constant<int, kBf16>());
    if (precision == kFp16) with(std::integral_constant<int, kFp16>());
    return out;
}

template <int kPrecision>
__global__ void round_kernel(const float* in, float* out, int64_t count) {
    const int64_t i = this_thread();
    if (i < count) out[i] = Mma<kPrecision>::rounded(in[i]);
}

Tensor fit_rounded(Tensor x, int64_t precision) {
    const Tensor out = torch::stable::new_empty(x, {x.numel()});
    const auto kernel = precision == kTf32   ? round_kernel<kTf32>
                        : precision == kBf16 ? round_kernel<kBf16>
                                             : round_kernel<kFp16>;
    launch(kernel, blocks_for(x.numel()), kThreads, 0, nullptr, pointer<float>(x), out_pointer<float>(out),
           x.numel());
    return out;
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_FRAGMENT(mclnf_fast_emulated, m) {
    m.def(
        "fit_product(Tensor a, Tensor b, bool along_a, bool along_b, int a_count, int b_count, int "
        "precision, "
        "int warps) -> Tensor");
    m.def("fit_rounded(Tensor x, int precision) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(mclnf_fast_emulated, CPU, m) {
    m.impl("fit_product", TORCH_BOX(&mclnf::fit_product));
    m.impl("fit_rounded", TORCH_BOX(&mclnf::fit_rounded));
}

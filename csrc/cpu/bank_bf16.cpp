// The bank in bf16: the kernels over the dot product instruction where the
// processor has it and it is fast; elsewhere the fp32 kernels between conversions, run by run,
// with one rounding at the end.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "bank_inputs.h"

namespace mclnf {

namespace {

void widen_all(const Bf16* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
}
void narrow_all(const float* from, int64_t count, Bf16* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = narrow(from[i]);
}

// fp32 memory of a thread for one run, handed out front to back.
class Scratch {
  public:
    explicit Scratch(int64_t count) {
        if (static_cast<int64_t>(memory().size()) < count) memory().resize(count);
    }
    float* take(int64_t count) {
        used_ += count;
        return memory().data() + used_ - count;
    }
    const float* widened(const Bf16* from, int64_t count) {
        float* to = take(count);
        widen_all(from, count, to);
        return to;
    }
    View<float> widened(const Net& net, Slices<Bf16> from) {
        float* to = take(net.parameters);
        const View<float> view(to, net);
        for (size_t l = 0; l < net.layers.size(); ++l) {
            const int64_t out = net.layers[l].out, weights = net.layers[l].in * out;
            widen_all(from.weight[l], weights, to);
            widen_all(from.bias[l], out, to + weights);
            to += weights + out;
        }
        return view;
    }

  private:
    static std::vector<float>& memory() {
        static thread_local std::vector<float> kept;
        return kept;
    }
    int64_t used_ = 0;
};

// Points of a forward run that are converted at a time; no point's value depends
// on the cut.
constexpr int64_t kChunk = 1024;

void converted_forward(const Net& net, Slices<Bf16> par, const Bf16* x, int64_t n, Bf16* y, Bf16*) {
    const int64_t chunk = std::min(n, kChunk);
    Scratch scratch(net.parameters + chunk * (net.in_dim + net.out_dim));
    const View<float> wide = scratch.widened(net, par);
    float *xs = scratch.take(chunk * net.in_dim), *ys = scratch.take(chunk * net.out_dim);
    for (int64_t at = 0; at < n; at += chunk) {
        const int64_t points = std::min(chunk, n - at);
        widen_all(x + at * net.in_dim, points * net.in_dim, xs);
        bank_table<float>().forward(net, wide.read(), xs, points, ys, nullptr);
        narrow_all(ys, points * net.out_dim, y + at * net.out_dim);
    }
}

void converted_backward(const Net& net, Slices<Bf16> par, const Bf16* x, int64_t n, const Start<Bf16>& start,
                        Bf16* grad_x, Sums<float> grads, const FisherSweep<float>&) {
    const int64_t in = n * net.in_dim, out = n * net.out_dim;
    Scratch scratch(net.parameters + 2 * in + out);
    const View<float> wide = scratch.widened(net, par);
    const float* xs = scratch.widened(x, in);
    Start<float> wide_start;
    wide_start.grad_y = scratch.widened(start.grad_y, out);
    float* gx = grad_x ? scratch.take(in) : nullptr;
    bank_table<float>().backward(net, wide.read(), xs, n, wide_start, gx, grads, {});
    if (gx) narrow_all(gx, in, grad_x);
}

void converted_second(const Net& net, Slices<Bf16> par, const Bf16* x, int64_t n, const Start<Bf16>& start,
                      const Bf16* tangent_x, Slices<Bf16> tangent, Bf16* grad_x, Sums<float> grads,
                      Bf16* grad_grad_y) {
    const int64_t in = n * net.in_dim, out = n * net.out_dim;
    Scratch scratch(2 * net.parameters + 3 * in + 2 * out);
    const View<float> wide = scratch.widened(net, par), direction = scratch.widened(net, tangent);
    const float *xs = scratch.widened(x, in), *tx = tangent_x ? scratch.widened(tangent_x, in) : nullptr;
    Start<float> wide_start;
    wide_start.grad_y = scratch.widened(start.grad_y, out);
    float *gx = grad_x ? scratch.take(in) : nullptr, *ggy = grad_grad_y ? scratch.take(out) : nullptr;
    bank_table<float>().second(net, wide.read(), xs, n, wide_start, tx, direction.read(), gx, grads, ggy);
    if (gx) narrow_all(gx, in, grad_x);
    if (ggy) narrow_all(ggy, out, grad_grad_y);
}

// Whether bf16 runs on the dot product. By itself not on Intel's processors with
// AMX (Sapphire Rapids and its successors), whose vdpbf16ps is reported to be
// slower than the fp32 multiply-adds it replaces
// (github.com/libxsmm/tpp-mlir/pull/1025); on Zen 4 it is reported to double
// them (github.com/iree-org/iree/pull/15089).
bool wants_dot() {
    const char* forced = std::getenv("MCLNF_FAST_BF16_DOT");
    const std::string value = forced ? forced : "";
    STD_TORCH_CHECK(value.empty() || value == "0" || value == "1",
                    "the environment variable MCLNF_FAST_BF16_DOT must be 0 or 1, got ", value);
    bool has = false, fast = true;
#if defined(MCLNF_EMULATE)
    has = std::string(bank_table<float>().name) == "avx512";
#elif defined(__x86_64__)
    has = std::string(bank_table<float>().name) == "avx512" && __builtin_cpu_supports("avx512bf16");
    fast = !__builtin_cpu_supports("amx-bf16");
#endif
    STD_TORCH_CHECK(value != "1" || has,
                    "MCLNF_FAST_BF16_DOT=1, but this processor (or MCLNF_FAST_ISA) lacks AVX512-BF16");
    return has && (value.empty() ? fast : value == "1");
}

bool cpu_bf16_dot() { return bank_table<Bf16>().forward != &converted_forward; }

}  // namespace

template <>
const BankTable<Bf16>& bank_table<Bf16>() {
    static const BankTable<Bf16> chosen = [] {
        BankTable<Bf16> table{"converted", bank_table<float>().lanes, &converted_forward, &converted_backward,
                              &converted_second};
#if defined(__x86_64__)
        if (wants_dot()) {
            table.name = avx512_bf16::table.name;
            table.forward = avx512_bf16::table.forward;
            table.backward = avx512_bf16::table.backward;
        }
#endif
        return table;
    }();
    return chosen;
}

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CompositeExplicitAutograd, m) {
    m.impl("cpu_bf16_dot", TORCH_BOX(&mclnf::cpu_bf16_dot));
}

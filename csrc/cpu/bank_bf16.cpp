// The bank in bf16: the kernels over the dot product instruction if the processor has it and it is fast;
// otherwise the fp32 kernels between conversions, run by run, with one rounding at the end.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "bank_inputs.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif

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
    ParameterView<float> widened(const Net& net, const Parameters<Bf16>& from) {
        float* to = take(net.parameters);
        const ParameterView<float> view(to, net);
        for (size_t l = 0; l < net.layers.size(); ++l) {
            const int64_t out = net.layers[l].out, weights = net.layers[l].weights();
            widen_all(from.weight[l], weights, to);
            widen_all(from.bias[l], out, to + weights);
            to += weights + out;
        }
        return view;
    }

  private:
    static std::vector<float>& memory() {
        static thread_local std::vector<float> values;
        return values;
    }
    int64_t used_ = 0;
};

// Points of a forward run that are converted at a time, so that the fp32 copies stay in a cache; no point's
// value depends on the cut.
constexpr int64_t kChunk = 1024;

void converted_forward(const Net& net, const ModulePoints<Bf16>& in, Bf16* y, Bf16*) {
    const int64_t chunk = std::min(in.n, kChunk);
    Scratch scratch(net.parameters + chunk * (net.in_dim + net.out_dim));
    const ParameterView<float> wide = scratch.widened(net, in.parameters);
    float *xs = scratch.take(chunk * net.in_dim), *ys = scratch.take(chunk * net.out_dim);
    for (int64_t begin = 0; begin < in.n; begin += chunk) {
        const int64_t points = std::min(chunk, in.n - begin);
        widen_all(in.x + begin * net.in_dim, points * net.in_dim, xs);
        bank_table<float>().forward(net, {wide.read(), xs, points}, ys, nullptr);
        narrow_all(ys, points * net.out_dim, y + begin * net.out_dim);
    }
}

void converted_backward(const Net& net, const ModulePoints<Bf16>& in, const OutputGradient<Bf16>& gradient,
                        const BackwardResults<Bf16>& results) {
    const int64_t inputs = in.n * net.in_dim, outputs = in.n * net.out_dim;
    Scratch scratch(net.parameters + 2 * inputs + outputs);
    const ParameterView<float> wide = scratch.widened(net, in.parameters);
    const ModulePoints<float> wide_in{wide.read(), scratch.widened(in.x, inputs), in.n};
    OutputGradient<float> wide_gradient;
    wide_gradient.grad_y = scratch.widened(gradient.grad_y, outputs);
    BackwardResults<float> wide_results;
    wide_results.grad_x = results.grad_x ? scratch.take(inputs) : nullptr;
    wide_results.grads = results.grads;
    bank_table<float>().backward(net, wide_in, wide_gradient, wide_results);
    if (results.grad_x) narrow_all(wide_results.grad_x, inputs, results.grad_x);
}

void converted_second(const Net& net, const ModulePoints<Bf16>& in, const OutputGradient<Bf16>& gradient,
                      const Tangents<Bf16>& tangents, const SecondResults<Bf16>& results) {
    const int64_t inputs = in.n * net.in_dim, outputs = in.n * net.out_dim;
    Scratch scratch(2 * net.parameters + 3 * inputs + 2 * outputs);
    const ParameterView<float> wide = scratch.widened(net, in.parameters),
                               direction = scratch.widened(net, tangents.parameters);
    const ModulePoints<float> wide_in{wide.read(), scratch.widened(in.x, inputs), in.n};
    const Tangents<float> wide_tangents{tangents.x ? scratch.widened(tangents.x, inputs) : nullptr,
                                        direction.read()};
    OutputGradient<float> wide_gradient;
    wide_gradient.grad_y = scratch.widened(gradient.grad_y, outputs);
    const SecondResults<float> wide_results{results.grad_x ? scratch.take(inputs) : nullptr, results.grads,
                                            results.grad_grad_y ? scratch.take(outputs) : nullptr};
    bank_table<float>().second(net, wide_in, wide_gradient, wide_tangents, wide_results);
    if (results.grad_x) narrow_all(wide_results.grad_x, inputs, results.grad_x);
    if (results.grad_grad_y) narrow_all(wide_results.grad_grad_y, outputs, results.grad_grad_y);
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
    unsigned a = 0, b = 0, c = 0, d = 0;  // by the number of its bit: clang before 16 knows no name for AMX
    fast = !(__get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1));
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
        [[maybe_unused]] const bool dot = wants_dot();  // everywhere: it refuses a wrong environment
#if defined(__x86_64__)
        if (dot) {
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

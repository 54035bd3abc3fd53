// The bank in bf16: the kernels over the dot product instruction if the processor has it and it is fast;
// otherwise the fp32 kernels on parameters widened run by run.
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

// A module's parameters in fp32, in memory of the calling thread.
class Widened {
  public:
    enum Use { kParameters, kDirection };
    Widened(const Net& net, const Parameters<Bf16>& from, Use use = kParameters) {
        static thread_local std::vector<float> memories[2];
        std::vector<float>& memory = memories[use];
        if (static_cast<int64_t>(memory.size()) < net.parameters) memory.resize(net.parameters);
        float* to = memory.data();
        view_ = ParameterView<float>(to, net);
        for (size_t l = 0; l < net.layers.size(); ++l) {
            const int64_t out = net.layers[l].out, weights = net.layers[l].weights();
            if (l == 0)
                std::copy(from.first, from.first + weights, to);
            else
                widen_all(from.weight[l], weights, to);
            std::copy(from.bias[l], from.bias[l] + out, to + weights);
            to += weights + out;
        }
    }
    Parameters<float> read() const { return view_.read(); }

  private:
    ParameterView<float> view_;
};

OutputGradient<float> of_outputs(const float* grad_y) {
    OutputGradient<float> gradient;
    gradient.grad_y = grad_y;
    return gradient;
}

void converted_forward(const Net& net, const ModulePoints<Bf16>& in, float* y, Bf16*) {
    const Widened wide(net, in.parameters);
    bank_table<float>().forward(net, {wide.read(), in.x, in.n}, y, nullptr);
}

void converted_backward(const Net& net, const ModulePoints<Bf16>& in, const OutputGradient<Bf16>& gradient,
                        const BackwardResults<Bf16>& results) {
    const Widened wide(net, in.parameters);
    BackwardResults<float> wide_results;
    wide_results.grad_x = results.grad_x;
    wide_results.grads = results.grads;
    bank_table<float>().backward(net, {wide.read(), in.x, in.n}, of_outputs(gradient.grad_y), wide_results);
}

void converted_second(const Net& net, const ModulePoints<Bf16>& in, const OutputGradient<Bf16>& gradient,
                      const Tangents<Bf16>& tangents, const SecondResults<Bf16>& results) {
    const Widened wide(net, in.parameters), direction(net, tangents.parameters, Widened::kDirection);
    bank_table<float>().second(net, {wide.read(), in.x, in.n}, of_outputs(gradient.grad_y),
                               {tangents.x, direction.read()},
                               {results.grad_x, results.grads, results.grad_grad_y});
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

// The optimizer step of a bank on CUDA: one pass over memory, which alone limits it. Two kernels: one thread
// per module counts its clock up and works out its factors, in double; then one thread per few neighboring
// values of all tensors, whose pointers are parameters of the kernel. Where modules without a gradient are
// skipped, a block per module looks for one first. The arithmetic is csrc/math/bank_step.h.
#include <algorithm>
#include <type_traits>

#include "bank_step_tensors.h"
#include "launch.h"
#include "math/bank_step.h"
#include "math/half.h"
#include "math/modules.h"

namespace mclnf {
namespace {

// Of a module; the other factors are the same for all.
template <typename S>
struct Rate {
    S rate, floor, unscale, shrink;
};

template <typename S>
__global__ void __launch_bounds__(kThreads)
    clock_kernel(StepOptions o, ModuleValues own, Rate<S>* module_rates) {
    const int64_t m = this_thread();
    if (m >= o.modules || (own.active && !own.active[m])) return;
    const double t = own.clock[m] + 1;
    own.clock[m] = t;
    const double lr = own.rates ? own.rates[m] : o.lr;
    StepFactors<S> factors = step_factors<S>(o.adam, t, lr, o.beta1, o.beta2, o.eps, o.lam);
    set_decay(factors, o.decoupled, lr, o.weight_decay);
    module_rates[m] = {factors.rate, factors.floor, static_cast<S>(1 / (own.scales ? own.scales[m] : 1.0)),
                       factors.shrink};
}

constexpr int kMaxTensors = 48;  // of a launch: its parameters are 4 KB at most
constexpr int kBytes = 16;       // that a thread reads at once

template <typename S>
struct Tables {
    Streams<S> streams[kMaxTensors];
    int64_t sizes[kMaxTensors];  // values per module
    unsigned first_block[kMaxTensors];
    bool aligned[kMaxTensors];  // all of its tensors lie at multiples of kBytes
    int count;
    int64_t modules;
    StepFactors<S> factors;  // rate and floor are each module's own
    const Rate<S>* rates;
    const bool* active;
};

template <typename T, int kSize>
struct alignas(kSize * sizeof(T)) Pack {
    T values[kSize];
};
template <typename S>
constexpr int kValues = kBytes / static_cast<int>(sizeof(S));  // of a thread

// The pack at value `at`; if it can't be read at once, those of its values that are there.
template <typename T, int kSize>
__device__ inline void read(const T* from, int64_t at, int there, bool at_once, Pack<T, kSize>& pack) {
    if (at_once) {
        pack = *reinterpret_cast<const Pack<T, kSize>*>(from + at);
    } else {
        for (int k = 0; k < kSize; ++k) pack.values[k] = k < there ? from[at + k] : T(0);
    }
}

// Writes the values of active modules: `mask` has a bit for each.
template <typename T, int kSize>
__device__ inline void write(T* to, int64_t at, unsigned mask, bool at_once, const Pack<T, kSize>& pack) {
    if (at_once && mask == (1u << kSize) - 1) {
        *reinterpret_cast<Pack<T, kSize>*>(to + at) = pack;
    } else {
        for (int k = 0; k < kSize; ++k)
            if (mask >> k & 1) to[at + k] = pack.values[k];
    }
}

// kHalf: kBf16 or kFp16 if the gradients of tensors with a copy are of that type, which is written; else
// kFp32.
template <typename S, bool kAdam, bool kTrust, int kHalf>
__global__ void __launch_bounds__(kThreads) values_kernel(const __grid_constant__ Tables<S> in) {
    constexpr int kCount = kValues<S>;
    int t = 0;
    while (t + 1 < in.count && in.first_block[t + 1] <= blockIdx.x) ++t;
    const Streams<S>& stream = in.streams[t];
    const int64_t size = in.sizes[t], total = size * in.modules;
    const int64_t at =
        (static_cast<int64_t>(blockIdx.x - in.first_block[t]) * kThreads + threadIdx.x) * kCount;
    if (at >= total) return;
    const int there = total - at < kCount ? static_cast<int>(total - at) : kCount;
    const bool at_once = in.aligned[t] && there == kCount;
    // The module of each value.
    int64_t module = quotient(at, size), left = size - (at - module * size);
    Rate<S> rates[kCount] = {};
    unsigned mask = 0;
    for (int k = 0; k < kCount; ++k) {
        if (k >= there) break;
        if (left == 0) {
            ++module;
            left = size;
        }
        --left;
        if (in.active && !in.active[module]) continue;
        mask |= 1u << k;
        rates[k] = in.rates[module];
    }
    if (mask == 0) return;
    Pack<S, kCount> p, g, m, v, fisher, anchor;
    Pack<uint16_t, kCount> half;
    read(stream.p, at, there, at_once, p);
    const bool halved = kHalf != kFp32 && stream.copy;
    if (halved)
        read(stream.half_g, at, there, at_once, half);
    else
        read(stream.g, at, there, at_once, g);
    if constexpr (kHalf != kFp32)
        for (int k = 0; halved && k < kCount; ++k) g.values[k] = from_half<kHalf>(half.values[k]);
    if constexpr (kAdam) {
        read(stream.m, at, there, at_once, m);
        read(stream.v, at, there, at_once, v);
    }
    if constexpr (kTrust) {
        read(stream.fisher, at, there, at_once, fisher);
        read(stream.anchor, at, there, at_once, anchor);
    }
    for (int k = 0; k < kCount; ++k) {
        StepFactors<S> c = in.factors;
        c.rate = rates[k].rate;
        c.floor = rates[k].floor;
        S gradient = g.values[k] * rates[k].unscale;
        if (c.coupled != 0) gradient = decayed(c, gradient, p.values[k]);
        if constexpr (kTrust) gradient = pulled(c, gradient, p.values[k], fisher.values[k], anchor.values[k]);
        const S before = p.values[k] * rates[k].shrink;
        if constexpr (kAdam)
            p.values[k] = adam_step(c, before, gradient, m.values[k], v.values[k]);
        else
            p.values[k] = sgd_step(c, before, gradient);
        if constexpr (kHalf != kFp32) half.values[k] = to_half<kHalf>(p.values[k]);
    }
    write(stream.p, at, mask, at_once, p);
    if (halved) write(stream.copy, at, mask, at_once, half);
    if constexpr (kAdam) {
        write(stream.m, at, mask, at_once, m);
        write(stream.v, at, mask, at_once, v);
    }
}

// Sets of each active module whether one of its gradients is not 0: a block per module, which ends at the
// first. `more`: what is found is added to what `mask` holds.
template <typename S>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(const __grid_constant__ Tables<S> in, bool* mask, bool more) {
    constexpr int kAtOnce = 4;  // values of a thread between two questions to its block
    const int64_t module = blockIdx.x;
    if (more && mask[module]) return;
    bool any = false;
    for (int t = 0; t < in.count && (!in.active || in.active[module]); ++t) {
        const int64_t size = in.sizes[t];
        const Streams<S> stream = in.streams[t].from(module * size);
        for (int64_t first = 0; first < size && !any; first += kThreads * kAtOnce) {
            for (int k = 0; k < kAtOnce; ++k) {
                const int64_t i = first + k * kThreads + threadIdx.x;
                if (i >= size) break;
                any = any || (stream.half_g ? (stream.half_g[i] & 0x7fff) != 0 : stream.g[i] != S(0));
            }
            any = __syncthreads_or(any);
        }
    }
    if (threadIdx.x == 0) mask[module] = any;
}

class Cuda {
  public:
    using Guard = DeviceOf;
    static constexpr const char* kPlace = "on the device of params[0]";

    explicit Cuda(const Tensor& first) : first_(first) {}

    bool has(const Tensor& t) const {
        return t.is_cpu() == first_.is_cpu() && t.get_device_index() == first_.get_device_index();
    }

    void check_values(const char*, const double*, int64_t) const {}  // would have to wait for the device

    template <typename S>
    void step(const StepOptions& o, const ModuleValues& own, const std::vector<Streams<S>>& streams,
              const std::vector<int64_t>& sizes) const {
        if (o.modules == 0) return;
        const cudaStream_t stream = current_stream(first_);
        const Tensor factors = torch::stable::new_empty(first_, {o.modules, 4});
        Tables<S> tables{};
        tables.modules = o.modules;
        tables.factors = step_factors<S>(o.adam, 1, 0, o.beta1, o.beta2, o.eps, o.lam);
        set_decay(tables.factors, o.decoupled, 0, o.weight_decay);
        tables.rates = pointer<Rate<S>>(factors);
        tables.active = own.active;
        ModuleValues stepped = own;
        OptTensor mask;
        if (o.skip_zero) {
            mask = torch::stable::new_empty(first_, {o.modules}, ScalarType::Bool);
            bool* found = out_pointer<bool>(*mask);
            bool more = false;
            each_table(o, tables, streams, sizes, [&](int64_t) {
                launch(gradient_kernel<S>, static_cast<unsigned>(o.modules), kThreads, 0, stream, tables,
                       found, more);
                check_cuda(cudaGetLastError(), "bank_step: gradients");
                more = true;
            });
            if (!more) return;  // there are no values
            tables.active = stepped.active = found;
        }
        launch(clock_kernel<S>, blocks_for(o.modules), kThreads, 0, stream, o, stepped,
               out_pointer<Rate<S>>(factors));
        check_cuda(cudaGetLastError(), "bank_step: clock");
        each_table(o, tables, streams, sizes,
                   [&](int64_t blocks) { step_tensors(o, tables, blocks, stream); });
    }

  private:
    // Calls work(blocks of the values' kernel) with as many tensors in the tables as a launch takes.
    template <typename S, typename Work>
    static void each_table(const StepOptions& o, Tables<S>& tables, const std::vector<Streams<S>>& streams,
                           const std::vector<int64_t>& sizes, const Work& work) {
        int64_t blocks = 0;
        tables.count = 0;
        for (size_t t = 0; t < streams.size(); ++t) {
            const int64_t tensor_blocks = blocks_for(sizes[t] * o.modules, kThreads * kValues<S>);
            if (tensor_blocks == 0) continue;
            if (tables.count == kMaxTensors || blocks + tensor_blocks > 0x7fffffff) {
                work(blocks);
                tables.count = 0;
                blocks = 0;
            }
            const int k = tables.count++;
            tables.streams[k] = streams[t];
            tables.sizes[k] = sizes[t];
            tables.first_block[k] = static_cast<unsigned>(blocks);
            tables.aligned[k] = aligned(streams[t]);
            blocks += tensor_blocks;
        }
        if (blocks > 0) work(blocks);
    }

    template <typename S>
    static bool aligned(const Streams<S>& t) {
        uintptr_t all = 0;
        for (const S* p : std::initializer_list<const S*>{t.p, t.m, t.v, t.g, t.fisher, t.anchor})
            all |= reinterpret_cast<uintptr_t>(p);
        // A pack of half types has half as many bytes.
        const uintptr_t halves = reinterpret_cast<uintptr_t>(t.copy) | reinterpret_cast<uintptr_t>(t.half_g);
        return all % kBytes == 0 && halves % (kBytes / 2) == 0;
    }

    template <typename S>
    static void step_tensors(const StepOptions& o, const Tables<S>& tables, int64_t blocks,
                             cudaStream_t stream) {
        if constexpr (std::is_same_v<S, float>) {
            if (o.half == kBf16) return launch_kernel<S, kBf16>(o, tables, blocks, stream);
            if (o.half == kFp16) return launch_kernel<S, kFp16>(o, tables, blocks, stream);
        }
        launch_kernel<S, kFp32>(o, tables, blocks, stream);
    }

    template <typename S, int kHalf>
    static void launch_kernel(const StepOptions& o, const Tables<S>& tables, int64_t blocks,
                              cudaStream_t stream) {
        const bool trust = o.lam != 0;
        const auto kernel =
            o.adam ? (trust ? values_kernel<S, true, true, kHalf> : values_kernel<S, true, false, kHalf>)
                   : (trust ? values_kernel<S, false, true, kHalf> : values_kernel<S, false, false, kHalf>);
        launch(kernel, static_cast<unsigned>(blocks), kThreads, 0, stream, tables);
        check_cuda(cudaGetLastError(), "bank_step: values");
    }

    Tensor first_;
};

}  // namespace
}  // namespace mclnf

MCLNF_CUDA_OPS(m) { m.impl("bank_step", TORCH_BOX(&mclnf::bank_step<mclnf::Cuda>)); }

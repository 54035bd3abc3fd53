// The machine's own limit for a benchmark to stand beside: independent chains of multiply-adds in registers,
// on as many threads as torch uses, in the instruction set that the library takes. No memory is touched.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <chrono>
#include <string>

#include "bank_table.h"
#include "tensors.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(MCLNF_HAS_NEON)
#include <arm_neon.h>
#endif

namespace mclnf {

namespace {

using Clock = std::chrono::steady_clock;

// A multiply-add takes 4 cycles and two are started in each: 8 chains fill the unit, 12 leave slack.
constexpr int kChains = 12;
constexpr int kSteps = 4096;  // some microseconds between two looks at the clock

typedef float Four __attribute__((vector_size(16)));
constexpr float kFactor = 0.999f, kTerm = 0.001f;  // the chains stay near 1: no denormals, no infinity

// The sum of the chains is returned and used, or the compiler would drop the loop.
float run_portable() {
    Four a[kChains];
    for (int i = 0; i < kChains; ++i) a[i] = Four{} + static_cast<float>(i);
    for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) a[i] = a[i] * kFactor + kTerm;
    for (int i = 1; i < kChains; ++i) a[0] += a[i];
    return a[0][0] + a[0][1] + a[0][2] + a[0][3];
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) float run_avx2() {
    const __m256 factor = _mm256_set1_ps(kFactor), term = _mm256_set1_ps(kTerm);
    __m256 a[kChains];
    for (int i = 0; i < kChains; ++i) a[i] = _mm256_set1_ps(static_cast<float>(i));
    for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) a[i] = _mm256_fmadd_ps(a[i], factor, term);
    for (int i = 1; i < kChains; ++i) a[0] = _mm256_add_ps(a[0], a[i]);
    return _mm256_cvtss_f32(a[0]);
}

__attribute__((target("avx512f"))) float run_avx512() {
    const __m512 factor = _mm512_set1_ps(kFactor), term = _mm512_set1_ps(kTerm);
    __m512 a[kChains];
    for (int i = 0; i < kChains; ++i) a[i] = _mm512_set1_ps(static_cast<float>(i));
    for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) a[i] = _mm512_fmadd_ps(a[i], factor, term);
    for (int i = 1; i < kChains; ++i) a[0] = _mm512_add_ps(a[0], a[i]);
    return _mm512_cvtss_f32(a[0]);
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) float run_bf16() {
    // Each lane adds two products of bf16 numbers; 2^-8 twice keeps the chains small.
    const __m512bh small = (__m512bh)_mm512_set1_epi16(0x3b80);
    __m512 a[kChains];
    for (int i = 0; i < kChains; ++i) a[i] = _mm512_set1_ps(static_cast<float>(i));
    for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) a[i] = _mm512_dpbf16_ps(a[i], small, small);
    for (int i = 1; i < kChains; ++i) a[0] = _mm512_add_ps(a[0], a[i]);
    return _mm512_cvtss_f32(a[0]);
}
#elif defined(MCLNF_HAS_NEON)
constexpr int kNeonChains = 24;  // four are started in each cycle by the larger ARM processors

float run_neon() {
    const float32x4_t factor = vdupq_n_f32(kFactor), term = vdupq_n_f32(kTerm);
    float32x4_t a[kNeonChains];
    for (int i = 0; i < kNeonChains; ++i) a[i] = vdupq_n_f32(static_cast<float>(i));
    for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 24
        for (int i = 0; i < kNeonChains; ++i) a[i] = vfmaq_f32(term, a[i], factor);
    for (int i = 1; i < kNeonChains; ++i) a[0] = vaddq_f32(a[0], a[i]);
    return vaddvq_f32(a[0]);
}
#endif

struct Loop {
    float (*run)();
    int lanes;  // multiply-adds of one instruction
    int chains = kChains;
};

Loop loop_of(const std::string& set, bool bf16) {
#if defined(__x86_64__)
    if (bf16) {
        const bool has = set == "avx512" && __builtin_cpu_supports("avx512bf16");
        return has ? Loop{run_bf16, 32} : Loop{nullptr, 0};
    }
    if (set == "avx512") return {run_avx512, 16};
    if (set == "avx2") return {run_avx2, 8};
#elif defined(MCLNF_HAS_NEON)
    if (set == "neon") return bf16 ? Loop{nullptr, 0} : Loop{run_neon, 4, kNeonChains};
#endif
    return bf16 ? Loop{nullptr, 0} : Loop{run_portable, 4};
}

// GFLOP/s of `seconds` of multiply-adds on all of torch's threads; bf16: of the dot instruction, 0 if the
// instruction set has none.
double cpu_fma_limit(double seconds, bool bf16) {
    STD_TORCH_CHECK(seconds > 0 && seconds <= 60, "seconds must be above 0 and at most 60, got ", seconds);
    const Loop loop = loop_of(bank_table<float>().name, bf16);
    if (loop.run == nullptr) return 0.0;
    std::atomic<int64_t> rounds{0};
    std::atomic<int> odd{0};
    const Clock::time_point begin = Clock::now();
    const auto end =
        begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t first, int64_t last) {
        int64_t loops = 0;
        float sum = 0;
        do {
            for (int64_t share = first; share < last; ++share, ++loops) sum += loop.run();
        } while (Clock::now() < end);
        rounds += loops;
        odd += !(sum > 0);
    });
    const double taken = std::chrono::duration<double>(Clock::now() - begin).count();
    STD_TORCH_CHECK(odd == 0, "cpu_fma_limit: the chains went astray");
    return 2.0 * static_cast<double>(rounds) * kSteps * loop.chains * loop.lanes / taken * 1e-9;
}

}  // namespace

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CompositeExplicitAutograd, m) {
    m.impl("cpu_fma_limit", TORCH_BOX(&mclnf::cpu_fma_limit));
}

// The optimiser step of a bank on the CPU: one pass over memory; threads share the parameters, the arithmetic
// is csrc/math/bank_step.h.
#include "math/bank_step.h"

#include <torch/csrc/stable/library.h>

#include <string>

#include "rays.h"

// Iterations do not depend on each other, even where two of the tensors are the same.
#if defined(__clang__)
#define MCLNF_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define MCLNF_INDEPENDENT _Pragma("GCC ivdep")
#else
#define MCLNF_INDEPENDENT
#endif

namespace mclnf {
namespace {

using Tensors = std::vector<Tensor>;

// The values of one tensor of the bank and what belongs to them; m and v are null for SGD, fisher and anchor
// without a trust region.
template <typename S>
struct Streams {
    S *p, *m, *v;
    const S *g, *fisher, *anchor;

    Streams from(int64_t at) const {
        return {p + at,
                m ? m + at : m,
                v ? v + at : v,
                g + at,
                fisher ? fisher + at : fisher,
                anchor ? anchor + at : anchor};
    }
};

template <typename S, bool kAdam, bool kTrust>
MCLNF_INLINE void step_values(const StepFactors<S>& factors, const Streams<S>& t, int64_t n) {
    const StepFactors<S> c = factors;
    S *const p = t.p, *const m = t.m, *const v = t.v;
    const S *const g = t.g, *const fisher = t.fisher, *const anchor = t.anchor;
    MCLNF_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) {
        const S slope = kTrust ? pulled(c, g[i], p[i], fisher[i], anchor[i]) : g[i];
        if (kAdam) {
            S m_new = m[i], v_new = v[i];
            p[i] = adam_step(c, p[i], slope, m_new, v_new);
            m[i] = m_new;
            v[i] = v_new;
        } else {
            p[i] = sgd_step(c, p[i], slope);
        }
    }
}

// Clones can't be templates, hence one function a type.
#define MCLNF_STEP_RANGE(S)                                                                 \
    MCLNF_CLONES void step_range(const StepFactors<S>& c, const Streams<S>& t, int64_t n) { \
        if (t.m && t.fisher) return step_values<S, true, true>(c, t, n);                    \
        if (t.m) return step_values<S, true, false>(c, t, n);                               \
        if (t.fisher) return step_values<S, false, true>(c, t, n);                          \
        step_values<S, false, false>(c, t, n);                                              \
    }
MCLNF_STEP_RANGE(float)
MCLNF_STEP_RANGE(double)

std::string shape(const Tensor& t) {
    std::string text = "[";
    for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
    return text + "]";
}

void check_like(const char* name, size_t i, const Tensor& t, const Tensor& p) {
    STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == p.scalar_type(), "bank_step: ", name, "[", i,
                    "] must be on the CPU with the dtype of params[0]");
    bool same = t.dim() == p.dim();
    for (int64_t d = 0; same && d < p.dim(); ++d) same = t.size(d) == p.size(d);
    STD_TORCH_CHECK(same, "bank_step: ", name, "[", i, "] must have shape ", shape(p), " like params[", i,
                    "], got ", shape(t));
}

void check_list(const char* name, const Tensors& list, const Tensors& params) {
    STD_TORCH_CHECK(list.size() == params.size(), "bank_step: ", name, " must hold ", params.size(),
                    " tensors like params, got ", list.size());
    for (size_t i = 0; i < list.size(); ++i) check_like(name, i, list[i], params[i]);
}

void check_numbers(const char* name, const Tensor& t, int64_t modules, ScalarType dtype, const char* kind) {
    STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == dtype && t.dim() == 1 && t.size(0) == modules,
                    "bank_step: ", name, " must be ", kind, " [", modules, "] on the CPU, got ", shape(t));
}

bool usable(double x) { return x >= 0 && std::isfinite(x); }

void check_written(const char* name, const Tensor& t) {
    for (int64_t d = 0; d < t.dim(); ++d)
        STD_TORCH_CHECK(t.stride(d) != 0 || t.size(d) <= 1, "bank_step: ", name,
                        " must not be expanded: it is changed in place");
}

// Contiguous tensors with their values; those of another layout are copied, and copied back by `put_back`.
class Values {
  public:
    explicit Values(Tensors list) : list_(std::move(list)) {
        for (size_t i = 0; i < list_.size(); ++i) {
            if (list_[i].is_contiguous()) continue;
            copied_.emplace_back(i, list_[i]);
            list_[i] = torch::stable::contiguous(list_[i]);
        }
    }
    template <typename T>
    const T* read(size_t i) const {
        return list_.empty() ? nullptr : pointer<T>(list_[i]);
    }
    template <typename T>
    T* write(size_t i) const {
        return list_.empty() ? nullptr : out_pointer<T>(list_[i]);
    }
    void put_back() {
        for (auto& [i, original] : copied_) torch::stable::copy_(original, list_[i]);
    }

  private:
    Tensors list_;
    std::vector<std::pair<size_t, Tensor>> copied_;
};

struct Options {
    bool adam;
    double beta1, beta2, eps, lam;
};

// Neighbouring modules that make the same step; `before` counts the modules of the runs before it.
template <typename S>
struct Run {
    int64_t first, count, before;
    StepFactors<S> factors;
};

// Counts the active modules' steps up and groups them: ten thousand modules in step are one range.
template <typename S>
std::vector<Run<S>> group(double* step, const double* lr, double lr_value, const bool* active,
                          int64_t modules, const Options& o) {
    std::vector<Run<S>> runs;
    double last_step = -1, last_rate = -1;
    for (int64_t m = 0; m < modules; ++m) {
        if (active && !active[m]) continue;
        const double t = step[m] += 1, rate = lr ? lr[m] : lr_value;
        const bool same = t == last_step && rate == last_rate;
        if (same && runs.back().first + runs.back().count == m) {
            ++runs.back().count;
            continue;
        }
        const int64_t before = runs.empty() ? 0 : runs.back().before + runs.back().count;
        runs.push_back(
            {m, 1, before,
             same ? runs.back().factors : step_factors<S>(o.adam, t, rate, o.beta1, o.beta2, o.eps, o.lam)});
        last_step = t, last_rate = rate;
    }
    return runs;
}

// Steps the values lo ... hi-1 of one tensor, counted over the active modules only; `size` values a module.
template <typename S>
void step_tensor(const std::vector<Run<S>>& runs, const Streams<S>& t, int64_t size, int64_t lo, int64_t hi) {
    auto run = std::upper_bound(runs.begin(), runs.end(), lo / size,
                                [](int64_t module, const Run<S>& r) { return module < r.before; }) -
               1;
    for (; lo < hi; ++run) {
        const int64_t skip = lo - run->before * size, n = std::min(hi - lo, run->count * size - skip);
        step_range(run->factors, t.from(run->first * size + skip), n);
        lo += n;
    }
}

template <typename S>
void step_all(const std::vector<Run<S>>& runs, const std::vector<Streams<S>>& streams,
              const std::vector<int64_t>& sizes) {
    if (runs.empty()) return;
    const int64_t active = runs.back().before + runs.back().count;
    int64_t total = 0;
    for (const int64_t size : sizes) total += size * active;
    const int64_t smallest = 32768;  // below this a second thread costs more than it brings
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t shares = std::max<int64_t>(1, std::min(threads, total / smallest));
    // Whole cache lines a share.
    const int64_t share = ((total + shares - 1) / shares + 63) / 64 * 64;
    const auto work = [&](int64_t first, int64_t last) {
        const int64_t lo = first * share, hi = std::min(total, last * share);
        int64_t at = 0;
        for (size_t t = 0; t < sizes.size() && at < hi; ++t) {
            const int64_t n = sizes[t] * active;
            if (at + n > lo && n > 0)
                step_tensor(runs, streams[t], sizes[t], std::max<int64_t>(0, lo - at), std::min(n, hi - at));
            at += n;
        }
    };
    if (shares == 1) return work(0, 1);
    torch::stable::parallel_for(0, shares, 1, work);
}

void bank_step(Tensors params, Tensors grads, Tensors exp_avg, Tensors exp_avg_sq, Tensor step, OptTensor lr,
               double lr_value, OptTensor active, bool adam, double beta1, double beta2, double eps,
               double lam, Tensors fisher, Tensors anchor) {
    // Everything is looked at before anything is written.
    STD_TORCH_CHECK(!params.empty(), "bank_step: params must hold at least one tensor [M, ...]");
    STD_TORCH_CHECK(params[0].dim() > 0, "bank_step: params[0] must be [M, ...], got []");
    const int64_t modules = params[0].size(0);
    const ScalarType dtype = params[0].scalar_type();
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "bank_step: params must be float32 or float64");
    for (size_t i = 0; i < params.size(); ++i) {
        const Tensor& p = params[i];
        STD_TORCH_CHECK(p.is_cpu() && p.scalar_type() == dtype && p.dim() > 0 && p.size(0) == modules,
                        "bank_step: params[", i, "] must be [", modules,
                        ", ...] on the CPU with the dtype of params[0], got ", shape(p));
        check_written("params", p);
    }
    check_list("grads", grads, params);
    if (adam) {
        check_list("exp_avg", exp_avg, params);
        check_list("exp_avg_sq", exp_avg_sq, params);
        for (const Tensor& t : exp_avg) check_written("exp_avg", t);
        for (const Tensor& t : exp_avg_sq) check_written("exp_avg_sq", t);
    } else {
        STD_TORCH_CHECK(exp_avg.empty() && exp_avg_sq.empty(),
                        "bank_step: exp_avg and exp_avg_sq must be empty for SGD");
    }
    const bool trust = lam != 0;
    STD_TORCH_CHECK(usable(lam), "bank_step: lam must be finite and at least 0, got ", lam);
    if (trust) {
        check_list("fisher", fisher, params);
        check_list("anchor", anchor, params);
    }
    STD_TORCH_CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1,
                    "bank_step: betas must be at least 0 and below 1, got ", beta1, " and ", beta2);
    STD_TORCH_CHECK(eps >= 0, "bank_step: eps must be at least 0, got ", eps);
    check_numbers("step", step, modules, ScalarType::Double, "float64");
    check_written("step", step);
    if (lr) check_numbers("lr", *lr, modules, ScalarType::Double, "float64");
    if (active) check_numbers("active", *active, modules, ScalarType::Bool, "bool");

    Values clock({step}), rates(lr ? Tensors{*lr} : Tensors{}), masks(active ? Tensors{*active} : Tensors{});
    for (int64_t m = 0; m < modules; ++m)
        STD_TORCH_CHECK(usable(clock.read<double>(0)[m]),
                        "bank_step: step must be finite and at least 0, got ", clock.read<double>(0)[m]);
    const double* rate = rates.read<double>(0);
    for (int64_t m = 0; m < (rate ? modules : 1); ++m) {
        const double value = rate ? rate[m] : lr_value;
        STD_TORCH_CHECK(usable(value), "bank_step: lr must be finite and at least 0, got ", value);
    }

    Values p(params), g(grads), m(exp_avg), v(exp_avg_sq);
    Values f(trust ? fisher : Tensors{}), a(trust ? anchor : Tensors{});
    std::vector<int64_t> sizes;
    for (const Tensor& t : params) sizes.push_back(modules ? t.numel() / modules : 0);
    const Options options{adam, beta1, beta2, eps, lam};
    const auto run = [&](auto zero) {
        using S = decltype(zero);
        const std::vector<Run<S>> runs =
            group<S>(clock.write<double>(0), rate, lr_value, masks.read<bool>(0), modules, options);
        std::vector<Streams<S>> streams;
        for (size_t i = 0; i < params.size(); ++i)
            streams.push_back(
                {p.write<S>(i), m.write<S>(i), v.write<S>(i), g.read<S>(i), f.read<S>(i), a.read<S>(i)});
        step_all(runs, streams, sizes);
    };
    dtype == ScalarType::Double ? run(double()) : run(float());
    for (Values* written : {&clock, &p, &m, &v}) written->put_back();
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) { m.impl("bank_step", TORCH_BOX(&mclnf::bank_step)); }

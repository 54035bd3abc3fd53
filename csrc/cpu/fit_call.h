// The arguments of the fits, read and checked.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "fit_arguments.h"
#include "fit_module.h"

namespace mclnf {

// A list of int64 or float64 numbers, contiguous on the CPU.
inline Tensor numbers(const char* name, const Tensor& t, int64_t count, ScalarType dtype) {
    STD_TORCH_CHECK(
        t.is_cpu() && t.scalar_type() == dtype && t.dim() == 1 && (count < 0 || t.size(0) == count),
        "bank_fit: ", name, " has a wrong dtype, place or shape");
    return contiguous_of(name, t);
}
inline std::vector<int64_t> listed(const Tensor& t) {
    const int64_t* p = pointer<int64_t>(t);
    return std::vector<int64_t>(p, p + t.numel());
}

// The tensors of a bank as lists that are changed in place: layer after layer, the weights [M, in, out], then
// the biases [M, out].
struct BankValues {
    std::vector<Values> tensors;

    BankValues(const char* name, const Net& net, int64_t modules, ScalarType dtype, const Tensors& list) {
        if (list.empty()) return;
        STD_TORCH_CHECK(list.size() == 2 * net.layers.size(), "bank_fit: ", name,
                        " must hold two tensors a layer");
        for (size_t t = 0; t < list.size(); ++t) {
            const Layer& layer = net.layers[t / 2];
            STD_TORCH_CHECK(list[t].is_cpu() && list[t].scalar_type() == dtype, "bank_fit: ", name,
                            " must be on the CPU with the dtype of x");
            if (t % 2 == 0)
                check_shape(name, list[t], {modules, layer.in, layer.out});
            else
                check_shape(name, list[t], {modules, layer.out});
            check_memory(name, list[t]);
            check_written(name, list[t]);
            tensors.emplace_back(Tensors{list[t]});
        }
    }
    template <class S>
    S* at(size_t t) const {
        return tensors.empty() ? nullptr : tensors[t].write<S>(0);
    }
    void put_back() {
        for (Values& t : tensors) t.put_back();
    }
};

// The tensors of the rule `guided`, and its state, which is changed in place.
struct GuideArguments {
    const OptTensor& curve;
    const Tensor &scores, &window, &batches;
    const Tensors& running;
};
template <class S>
class GuideTensors {
  public:
    GuideTensors(const Net& net, int64_t modules, ScalarType dtype, const GuideArguments& in)
        : curve_(contiguous_of("curve", in.curve)),
          scores_(changed("scores", in.scores, {modules, in.scores.dim() == 2 ? in.scores.size(1) : 0},
                          ScalarType::Double)),
          window_(changed("window", in.window, {modules, scores_.row}, ScalarType::Double)),
          batches_(changed("batches", in.batches, {modules}, ScalarType::Long)),
          running_("running", net, modules, dtype, in.running) {
        STD_TORCH_CHECK(!curve_ || (curve_->is_cpu() && curve_->scalar_type() == ScalarType::Long),
                        "bank_fit: curve must be int64 on the CPU");
    }
    // options: without its tensors. begins: of each module's samples; empty: they share them, and the curve.
    FitGuide<S> guide(FitGuide<S> options, const std::vector<int64_t>& begins,
                      const std::vector<FitSamples<S>>& samples) const {
        STD_TORCH_CHECK(options.block >= 1 && options.refresh >= 1 && options.mix >= 0 && options.mix < 1,
                        "bank_fit: block, refresh or mix out of range");
        const int64_t* const curve = pointer<int64_t>(curve_);
        const bool scored = options.follows_scores();
        STD_TORCH_CHECK(!scored || samples.empty() || !running_.tensors.empty(),
                        "bank_fit: scores need a running Fisher");
        int64_t rows = 0;
        for (size_t m = 0; m < samples.size(); ++m) {
            const int64_t begin = begins.empty() ? 0 : begins[m];
            const ScoreBlocks blocks{samples[m].n, options.block};
            rows = begin + blocks.n;
            options.curves.push_back(curve ? curve + begin : nullptr);
            STD_TORCH_CHECK(!scored || blocks.count() <= scores_.row,
                            "bank_fit: scores must have a column per block");
        }
        STD_TORCH_CHECK(!curve_ || samples.empty() || curve_->numel() == rows,
                        "bank_fit: curve must have a row per sample");
        for (size_t m = 0;
             curve && m < (begins.empty() ? std::min<size_t>(1, samples.size()) : samples.size()); ++m)
            for (int64_t i = 0; i < samples[m].n; ++i)
                STD_TORCH_CHECK(options.curves[m][i] >= 0 && options.curves[m][i] < samples[m].n,
                                "bank_fit: curve must hold a module's own samples");
        options.row = scores_.row;
        options.scores = scores_.values.template write<double>(0);
        options.window = window_.values.template write<double>(0);
        options.batches = batches_.values.template write<int64_t>(0);
        for (size_t t = 0; t < running_.tensors.size(); ++t)
            options.fisher.push_back(running_.template at<S>(t));
        return options;
    }
    void put_back() {
        for (Numbers* numbers : {&scores_, &window_, &batches_}) numbers->values.put_back();
        running_.put_back();
    }

  private:
    struct Numbers {
        Values values;
        int64_t row;  // numbers of a module
    };
    static Numbers changed(const char* name, const Tensor& t, std::initializer_list<int64_t> shape,
                           ScalarType dtype) {
        STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == dtype, "bank_fit: ", name,
                        " has a wrong dtype or place");
        check_shape(name, t, shape);
        check_memory(name, t);
        check_written(name, t);
        return {Values({t}), *(shape.end() - 1)};
    }

    OptTensor curve_;
    Numbers scores_, window_, batches_;
    BankValues running_;
};

// Refuses what would make a step read or divide beyond its arguments.
template <class S>
void check_calls(const Fit<S>& fit, const OptTensor& given, int64_t rates) {
    const FitOptions& o = fit.options;
    STD_TORCH_CHECK(o.rule >= kDrawUniform && o.rule <= kDrawGuided, "bank_fit: unknown rule");
    STD_TORCH_CHECK((o.rule == kDrawGuided) == (fit.guide != nullptr),
                    "bank_fit: the rule `guided` is that of bank_guided_fit, on points");
    STD_TORCH_CHECK(o.rule == kDrawWhole || (o.batch >= 1 && o.batch <= int64_t(1) << 31),
                    "bank_fit: batch out of range");
    STD_TORCH_CHECK(o.task >= 0 && o.task <= kMaxDrawTask, "bank_fit: task out of range");
    STD_TORCH_CHECK(o.frozen_layers >= 0 && o.frozen_layers < static_cast<int64_t>(fit.net.layers.size()),
                    "bank_fit: frozen_layers out of range");
    STD_TORCH_CHECK(o.sgd_steps >= 0 && o.check_every >= 1,
                    "bank_fit: sgd_steps or check_every out of range");
    int64_t most = 0;
    for (int64_t m = 0; m < fit.modules(); ++m) {
        if (fit.goal[m] <= fit.first[m]) continue;
        most = std::max(most, fit.goal[m] - fit.first[m]);
        STD_TORCH_CHECK(fit.first[m] >= 0 && fit.goal[m] <= rates,
                        "bank_fit: rates must reach to each module's goal");
        STD_TORCH_CHECK(fit.samples[m].n >= 1 && fit.samples[m].n <= kMaxDrawNumber, "bank_fit: module ", m,
                        " must have samples");
        STD_TORCH_CHECK(fit.module_numbers[m] >= 0 && fit.module_numbers[m] <= kMaxDrawNumber &&
                            fit.goal[m] <= kMaxDrawNumber,
                        "bank_fit: a module's number or step is out of range");
    }
    if (o.rule != kDrawGiven) return;
    STD_TORCH_CHECK(given && given->is_cpu() && given->scalar_type() == ScalarType::Long &&
                        given->dim() == 3 && given->size(0) >= most && given->size(1) == fit.modules() &&
                        given->size(2) == o.batch,
                    "bank_fit: ids must be int64 [K, M, batch]");
    const int64_t* id = pointer<int64_t>(*given);
    for (int64_t k = 0; k < given->size(0); ++k)
        for (int64_t m = 0; m < fit.modules(); ++m)
            for (int64_t j = 0; j < o.batch; ++j, ++id)
                STD_TORCH_CHECK(fit.goal[m] <= fit.first[m] || (*id >= 0 && *id < fit.samples[m].n),
                                "bank_fit: ids[", k, ", ", m, ", ", j, "] is no sample of its module");
}

}  // namespace mclnf

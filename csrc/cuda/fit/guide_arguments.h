// The tensors of the rule `guided`, checked, and its state, which is changed in place.
#pragma once

#include <algorithm>
#include <vector>

#include "arguments.h"
#include "network.h"

namespace mclnf {
namespace {

struct FitGuideOptions {
    double mix, smooth, decay, damping;
    int64_t block, refresh;
};
struct FitGuideState {
    OptTensor curve;
    Tensor scores, window, batches;
    Tensors running;
};

class FitGuideTensors {
  public:
    FitGuideTensors(const FitChecks& check, const FitGuideOptions& options, int64_t modules,
                    const FitGuideState& state)
        : options_(options),
          curve_(state.curve),
          scores_({state.scores}),
          window_({state.window}),
          batches_({state.batches}),
          running_(check.bank("running", state.running, options.mix > 0, true)),
          tensors_(options.mix > 0 ? state.running.size() : 0),
          row_(state.scores.dim() == 2 ? state.scores.size(1) : 0) {
        STD_TORCH_CHECK(options.block >= 1 && options.refresh >= 1 && options.mix >= 0 && options.mix < 1,
                        "bank_fit: block, refresh or mix out of range");
        check.checked("scores", state.scores, ScalarType::Double, {modules, row_});
        check.checked("window", state.window, ScalarType::Double, {modules, row_});
        check.checked("batches", state.batches, ScalarType::Long, {modules});
        check_written("scores", state.scores);
        check_written("window", state.window);
        check_written("batches", state.batches);
    }

    // For a call that is complete but for this.
    template <typename S>
    FitGuideCall<S> call(const FitCall<S>& fit) const {
        int inputs = 0;
        for (int l = 0; l < fit.net.layers; ++l)
            inputs = std::max(inputs, fit.net.layer[l].prev + fit.net.layer[l].encoded);
        const int64_t blocks = options_.mix > 0 ? row_ : 0;
        const FitShape shape = fit_shape(fit.net, sizeof(S), fit.adam, fit.batch);
        FitGuideCall<S> to{options_.mix,
                           options_.smooth,
                           options_.decay,
                           options_.damping,
                           options_.block,
                           options_.refresh,
                           pointer<int64_t>(curve_),
                           row_,
                           scores_.write<double>(0),
                           window_.write<double>(0),
                           batches_.write<int64_t>(0),
                           {},
                           fit_guide_plan(shape, fit.plan.points, inputs, fit.batch, blocks)};
        for (size_t t = 0; t < tensors_; ++t) to.running[t] = running_.write<S>(t);
        return to;
    }
    void put_back() {
        for (Values* changed : {&scores_, &window_, &batches_, &running_}) changed->put_back();
    }

  private:
    FitGuideOptions options_;
    OptTensor curve_;
    Values scores_, window_, batches_, running_;
    size_t tensors_;
    int64_t row_;  // blocks of a module
};

}  // namespace
}  // namespace mclnf

// Per-sample Fisher scores, gradients and diagonal Fisher on the CPU, without
// ever storing a sample's gradient beyond the one at hand.
#include <torch/csrc/stable/library.h>

#include <atomic>

#include "bank_inputs.h"

namespace mclnf {

namespace {

using FisherOut = std::tuple<Tensor, Tensors, Tensors, Tensors, Tensors>;

constexpr int64_t kMinSegments = 64;  // of a run; a segment has many points

// The arguments beside the inputs of the bank.
template <class S>
struct FisherRequest {
    Tensor grad_y;
    ParameterTensors<S> fisher;  // empty: no scores
    S damping;
    bool sums;
};

// Which points are a sample: each one, or segments of points (a ray's share of one module) whose gradient is
// formed and squared on chip.
struct Samples {
    std::vector<int64_t> bounds;   // the first point of each segment; empty: each point is a sample
    std::vector<int64_t> offsets;  // the first sample of each module

    bool are_segments() const { return !bounds.empty(); }
    int64_t first_point(int64_t sample) const { return are_segments() ? bounds[sample] : sample; }
};

// 1 / (fisher + damping) of one module, in the layout of ParameterView's one buffer; 0 if the sum is 0.
// Returns whether all values are ones that a Fisher can have: they are read here anyway, and a check of its
// own would read them twice.
template <class S>
bool invert(const Net& net, const ParameterTensors<S>& fisher, int64_t module, S damping, S* out) {
    int bad = 0;
    ParameterView<S>(fisher, net, module).each(net, [&](const S* f, int64_t size) {
        for (int64_t i = 0; i < size; ++i) {
            const S sum = f[i] + damping;
            bad |= !(f[i] >= 0);
            out[i] = sum > 0 ? S(1) / sum : S(0);
        }
        out += size;
    });
    return bad == 0;
}

template <class S>
[[noreturn]] void refuse(const ParameterTensors<S>& fisher) {
    for (int k = 0; k < 2; ++k) {
        const Tensors& tensors = k == 0 ? fisher.weight : fisher.bias;
        for (size_t l = 0; l < tensors.size(); ++l) {
            const S* p = data<S>(tensors[l]);
            for (int64_t i = 0; i < tensors[l].numel(); ++i)
                STD_TORCH_CHECK(p[i] >= 0, "fisher[", k, "][", l, "] must not be negative or NaN, got ",
                                p[i]);
        }
    }
    STD_TORCH_CHECK(false, "fisher must not be negative or NaN");
}

// The share of a sample in its module's mean.
template <class S>
std::vector<S> sample_shares(const std::vector<int64_t>& offsets) {
    std::vector<S> shares;
    for (size_t m = 0; m + 1 < offsets.size(); ++m)
        shares.push_back(S(1) / static_cast<S>(std::max<int64_t>(1, offsets[m + 1] - offsets[m])));
    return shares;
}

// One thread's inverse Fisher, worked out when its runs come to another module.
template <class S>
class InverseFisher {
  public:
    InverseFisher(const Net& net, bool needed) : values_(needed ? net.parameters : 0) {}
    // Whether the module's Fisher is one.
    bool move_to(int64_t module, const Net& net, const FisherRequest<S>& request) {
        const bool same = module_ == module;
        module_ = module;
        if (!view_) view_ = ParameterView<S>(values_.data(), net);
        return same || invert(net, request.fisher, module, request.damping, values_.data());
    }
    Parameters<S> read() const { return view_.read(); }

  private:
    std::vector<S> values_;
    ParameterView<S> view_;
    int64_t module_ = -1;
};

// One sweep over the samples.
template <class S>
FisherOut sweep(const BankInputs<S>& in, const FisherRequest<S>& request, const Samples& samples) {
    const bool scored = static_cast<bool>(request.fisher);
    Tensor scores = torch::stable::new_empty(in.x, {scored ? samples.offsets.back() : 0});
    ParameterTensors<S> grads = in.new_gradients(request.sums), squares = in.new_gradients(request.sums);
    const int64_t min_samples = samples.are_segments() ? kMinSegments : kMinPoints;
    const Plan plan = request.sums ? Plan::fixed(samples.offsets, min_samples) : Plan::free(samples.offsets);
    RunSums<S> sums(in.net, in.modules, plan, grads), square_sums(in.net, in.modules, plan, squares);
    std::atomic<bool> bad{false};
    using Output = typename RunSums<S>::Output;
    each_run(plan, [&, par = in.run_parameters(plan), inverse = InverseFisher<S>(in.net, scored),
                    grad_output = Output(sums), square_output = Output(square_sums),
                    segments = std::vector<int64_t>()](int64_t r, int64_t then) mutable {
        const Run& run = plan.runs[r];
        const int64_t first = samples.first_point(run.begin), end = samples.first_point(run.end);
        BackwardResults<S> results;
        results.grads = grad_output.of(run);
        results.fisher.squares = square_output.of(run);
        if (scored) {
            if (!inverse.move_to(run.module, in.net, request)) bad = true;
            results.fisher.inverse = inverse.read();
            results.fisher.scores = mutable_data<S>(scores) + run.begin;
        }
        if (samples.are_segments()) {
            segments.clear();
            for (int64_t s = run.begin; s <= run.end; ++s) segments.push_back(samples.bounds[s] - first);
            results.fisher.segments = segments.data();
            results.fisher.count = run.size();
        }
        OutputGradient<S> gradient;
        gradient.grad_y = in.outputs_at(request.grad_y, first);
        bank_table<S>().backward(in.net, in.module_points(par.at(r, then), first, end), gradient, results);
    });
    if (bad) refuse(request.fisher);
    sums.finish();
    if (request.sums) square_sums.finish(sample_shares<S>(samples.offsets));
    return {scores, grads.weight, grads.bias, squares.weight, squares.bias};
}

template <class S>
FisherRequest<S> read_request(const BankInputs<S>& in, const Tensor& grad_y, const Tensors& w,
                              const Tensors& b, double damping, bool sums) {
    const ScalarType dtype = in.x.scalar_type();
    FisherRequest<S> request{plain("grad_y", grad_y, dtype), {}, static_cast<S>(damping), sums};
    check_shape("grad_y", request.grad_y, {in.points, in.net.out_dim});
    if (!w.empty()) request.fisher = ParameterTensors<S>("fisher", in.net, in.modules, w, b, dtype);
    return request;
}

template <class S>
Samples read_segments(const BankInputs<S>& in, const Tensor& bounds, const Tensor& offsets) {
    Samples samples;
    samples.bounds = read_offsets("segments", bounds, in.points);
    samples.offsets =
        read_offsets("segment_offsets", offsets, static_cast<int64_t>(samples.bounds.size()) - 1);
    STD_TORCH_CHECK(samples.offsets.size() == in.offsets.size(),
                    "mclnf_fast: segment_offsets must be [M + 1]");
    for (size_t m = 0; m < in.offsets.size(); ++m)
        STD_TORCH_CHECK(samples.bounds[samples.offsets[m]] == in.offsets[m],
                        "mclnf_fast: segments must not cross modules");
    for (size_t i = 1; i < samples.bounds.size(); ++i)
        STD_TORCH_CHECK(samples.bounds[i] > samples.bounds[i - 1], "mclnf_fast: segments must not be empty");
    return samples;
}

FisherOut fisher_points(Tensor x, Tensor offsets, Tensors w, Tensors b, Tensor grad_y, Tensors fisher_w,
                        Tensors fisher_b, double damping, std::vector<int64_t> ints,
                        std::vector<double> floats, bool sums) {
    return by_dtype(x, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        return sweep<S>(in, read_request(in, grad_y, fisher_w, fisher_b, damping, sums), {{}, in.offsets});
    });
}

FisherOut fisher_segments(Tensor x, Tensor offsets, Tensors w, Tensors b, Tensor grad_y, Tensor segments,
                          Tensor segment_offsets, Tensors fisher_w, Tensors fisher_b, double damping,
                          std::vector<int64_t> ints, std::vector<double> floats, bool sums) {
    return by_dtype(x, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        const Samples samples = read_segments(in, segments, segment_offsets);
        return sweep<S>(in, read_request(in, grad_y, fisher_w, fisher_b, damping, sums), samples);
    });
}

}  // namespace

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("fisher_points", TORCH_BOX(&mclnf::fisher_points));
    m.impl("fisher_segments", TORCH_BOX(&mclnf::fisher_segments));
}

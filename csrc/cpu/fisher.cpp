// Per-sample Fisher scores, gradients and diagonal Fisher on the CPU, without
// ever storing a sample's gradient beyond the one at hand.
#include <torch/csrc/stable/library.h>

#include <atomic>

#include "bank_inputs.h"

namespace mclnf {

namespace {

using FisherOut = std::tuple<Tensor, Tensors, Tensors, Tensors, Tensors>;

constexpr int64_t kLeastSegments = 64;

// What is asked for beside the inputs of the bank.
template <class S>
struct Wanted {
    Tensor grad_y;
    Stack<S> fisher;  // empty: no scores
    S damping;
    bool sums;
};

// 1 / (fisher + damping) of one module, in the layout of View's one buffer; 0
// where the sum is 0. Returns whether all values are ones that a Fisher can
// have.
template <class S>
bool invert(const Net& net, const Stack<S>& fisher, int64_t module, S damping, S* out) {
    int bad = 0;
    View<S>(fisher, net, module).each(net, [&](const S* f, int64_t size) {
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
[[noreturn]] void refuse(const Stack<S>& fisher) {
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

// One sweep over the samples: points, or segments of points (a ray's share of
// one module) whose gradient is formed and squared on chip. bounds: where
// segments begin; empty: each point is a sample. owned: the first sample of
// each module.
template <class S>
FisherOut sweep(const BankInputs<S>& in, const Wanted<S>& want, const std::vector<int64_t>& bounds,
                const std::vector<int64_t>& owned) {
    const bool segments = !bounds.empty(), scored = static_cast<bool>(want.fisher);
    Tensor scores = torch::stable::new_empty(in.x, {scored ? owned.back() : 0});
    Stack<S> grads, squares;
    if (want.sums) {
        grads = Stack<S>::empty(in.net, in.modules, in.x);
        squares = Stack<S>::empty(in.net, in.modules, in.x);
    }
    const int64_t least = segments ? kLeastSegments : kLeastPoints;
    const Plan plan = want.sums ? Plan::fixed(owned, least) : Plan::free(owned);
    RunSums<S> sums(in.net, in.modules, plan, grads), square_sums(in.net, in.modules, plan, squares);
    std::atomic<bool> bad{false};
    using Place = typename RunSums<S>::Place;
    each_run(plan, [&, par = in.walk(plan), inv = View<S>(),
                    inverse = std::vector<S>(scored ? in.net.parameters : 0), g = Place(sums),
                    f = Place(square_sums), own = std::vector<int64_t>(), module = int64_t(-1)](
                       int64_t r, int64_t then) mutable {  // module: whose inverse is there
        const Run& run = plan.runs[r];
        FisherSweep<S> fisher;
        fisher.squares = f.of(run);
        if (scored) {
            if (module != run.module &&
                !invert(in.net, want.fisher, run.module, want.damping, inverse.data()))
                bad = true;
            module = run.module;
            if (!inv) inv = View<S>(inverse.data(), in.net);
            fisher.inverse = inv.read();
            fisher.scores = mutable_data<S>(scores) + run.begin;
        }
        int64_t from = run.begin, to = run.end;
        if (segments) {
            from = bounds[run.begin];
            to = bounds[run.end];
            own.clear();
            for (int64_t s = run.begin; s <= run.end; ++s) own.push_back(bounds[s] - from);
            fisher.segments = own.data();
            fisher.count = run.end - run.begin;
        }
        Start<S> start;
        start.grad_y = data<S>(want.grad_y) + from * in.net.out_dim;
        bank_table<S>().backward(in.net, par.at(r, then), in.points_at(from), to - from, start, nullptr,
                                 g.of(run), fisher);
    });
    if (bad) refuse(want.fisher);
    sums.finish();
    if (want.sums) {
        std::vector<S> share;  // of a sample in its module's mean
        for (size_t m = 0; m + 1 < owned.size(); ++m)
            share.push_back(S(1) / static_cast<S>(std::max<int64_t>(1, owned[m + 1] - owned[m])));
        square_sums.finish(share);
    }
    return {scores, grads.weight, grads.bias, squares.weight, squares.bias};
}

template <class S>
Wanted<S> read_wanted(const BankInputs<S>& in, const Tensor& grad_y, const Tensors& w, const Tensors& b,
                      double damping, bool sums) {
    const ScalarType dtype = in.x.scalar_type();
    Wanted<S> want{plain("grad_y", grad_y, dtype), {}, static_cast<S>(damping), sums};
    check_shape("grad_y", want.grad_y, {in.points, in.net.out_dim});
    if (!w.empty()) want.fisher = Stack<S>("fisher", in.net, in.modules, w, b, dtype);
    return want;
}

FisherOut fisher_points(Tensor x, Tensor offsets, Tensors w, Tensors b, Tensor grad_y, Tensors fisher_w,
                        Tensors fisher_b, double damping, std::vector<int64_t> ints,
                        std::vector<double> floats, bool sums) {
    return by_dtype(x, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        return sweep<S>(in, read_wanted(in, grad_y, fisher_w, fisher_b, damping, sums), {}, in.offsets);
    });
}

FisherOut fisher_segments(Tensor x, Tensor offsets, Tensors w, Tensors b, Tensor grad_y, Tensor bounds,
                          Tensor owned, Tensors fisher_w, Tensors fisher_b, double damping,
                          std::vector<int64_t> ints, std::vector<double> floats, bool sums) {
    return by_dtype(x, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        const auto edges = BankInputs<S>::read_offsets("segments", bounds, in.points);
        const auto shares =
            BankInputs<S>::read_offsets("segment_offsets", owned, static_cast<int64_t>(edges.size()) - 1);
        STD_TORCH_CHECK(shares.size() == in.offsets.size(), "mclnf_fast: segment_offsets must be [M + 1]");
        for (size_t m = 0; m < shares.size(); ++m)
            STD_TORCH_CHECK(edges[shares[m]] == in.offsets[m], "mclnf_fast: segments must not cross modules");
        for (size_t i = 1; i < edges.size(); ++i)
            STD_TORCH_CHECK(edges[i] > edges[i - 1], "mclnf_fast: segments must not be empty");
        return sweep<S>(in, read_wanted(in, grad_y, fisher_w, fisher_b, damping, sums), edges, shares);
    });
}

}  // namespace

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("fisher_points", TORCH_BOX(&mclnf::fisher_points));
    m.impl("fisher_segments", TORCH_BOX(&mclnf::fisher_segments));
}

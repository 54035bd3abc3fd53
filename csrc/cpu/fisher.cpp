// Per-sample Fisher scores, gradients and diagonal Fisher on the CPU, without ever storing a sample's
// gradient beyond the one at hand.
#include <torch/csrc/stable/library.h>

#include "bank_inputs.h"

namespace mclnf {

namespace {

using FisherOut = std::tuple<Tensor, Tensors, Tensors, Tensors, Tensors>;

constexpr int64_t kLeastPoints = 512;
constexpr int64_t kLeastSegments = 64;

// The inverse Fisher: given for all layers, or not at all (sums only).
template <class S>
Stack<S> inverse_of(const BankInputs<S>& in, const Tensors& w, const Tensors& b) {
    if (w.empty()) return {};
    return Stack<S>("inverse_weights and inverse_biases", in.net, in.modules, w, b, in.x.scalar_type());
}

// Runs `sweep(run, grads, squares)` over the plan and adds up.
template <class S, class F>
void sweep_all(const BankInputs<S>& in, const Plan& plan, Stack<S>& grads, Stack<S>& squares,
               const F& sweep) {
    std::vector<S> partial(grads ? plan.slots * in.net.parameters : 0), partial_squares(partial.size());
    torch::stable::parallel_for(0, static_cast<int64_t>(plan.runs.size()), 1,
                                [&](int64_t begin, int64_t end) {
                                    for (int64_t r = begin; r < end; ++r) {
                                        const Run& run = plan.runs[r];
                                        View<S> g = sums_of(run, in.net, grads, partial),
                                                f = sums_of(run, in.net, squares, partial_squares);
                                        sweep(run, g.write(), f.write());
                                    }
                                });
    if (grads) {
        reduce_slots(plan, in.net, partial, grads);
        reduce_slots(plan, in.net, partial_squares, squares);
    }
}

// One point = one sample: score = rowsum(((d d) (1/F)^T) * (a a)), one matrix product a layer.
template <class S>
FisherOut points(const BankInputs<S>& in, const Tensor& grad_y, const Stack<S>& inverse, bool sums) {
    Tensor scores = torch::stable::new_empty(in.x, {inverse ? in.points : 0});
    Stack<S> grads, squares;
    if (sums) {
        grads = Stack<S>::zeros(in.net, in.modules, in.x);
        squares = Stack<S>::zeros(in.net, in.modules, in.x);
    }
    const BankTable<S>& table = bank_table<S>();
    sweep_all(in, Plan(in.offsets, kLeastPoints, sums), grads, squares,
              [&](const Run& run, Sums<S> g, Sums<S> f) {
                  const View<S> par(in.parameters, in.net, run.module), inv(inverse, in.net, run.module);
                  table.backward(in.net, par.read(), in.points_at(run.begin), run.end - run.begin,
                                 data<S>(grad_y) + run.begin * in.net.out_dim, nullptr, g, inv.read(),
                                 inverse ? mutable_data<S>(scores) + run.begin : nullptr, f);
              });
    return {scores, grads.weight, grads.bias, squares.weight, squares.bias};
}

// One segment of points = one sample (a ray's share of one module): its gradient is formed, squared, weighted
// and dropped, cross terms between its points included.
template <class S>
FisherOut segments(const BankInputs<S>& in, const Tensor& grad_y, const std::vector<int64_t>& bounds,
                   const std::vector<int64_t>& owned, const Stack<S>& inverse, bool sums) {
    const int64_t count = static_cast<int64_t>(bounds.size()) - 1;
    Tensor scores = torch::stable::new_empty(in.x, {inverse ? count : 0});
    Stack<S> grads, squares;
    if (sums) {
        grads = Stack<S>::zeros(in.net, in.modules, in.x);
        squares = Stack<S>::zeros(in.net, in.modules, in.x);
    }
    const BankTable<S>& table = bank_table<S>();
    sweep_all(in, Plan(owned, kLeastSegments, sums), grads, squares,
              [&](const Run& run, Sums<S> g, Sums<S> f) {
                  const View<S> par(in.parameters, in.net, run.module), inv(inverse, in.net, run.module);
                  std::vector<S> gradient(in.net.parameters);
                  View<S> own(gradient.data(), in.net);
                  const Slices<S> w = inv.read();
                  for (int64_t s = run.begin; s < run.end; ++s) {
                      std::fill(gradient.begin(), gradient.end(), S(0));
                      table.backward(in.net, par.read(), in.points_at(bounds[s]), bounds[s + 1] - bounds[s],
                                     data<S>(grad_y) + bounds[s] * in.net.out_dim, nullptr, own.write(), {},
                                     nullptr, {});
                      double score = 0;
                      const S* at = gradient.data();
                      const auto block = [&](int64_t size, const S* weight, S* sum, S* square) {
                          if (sum)
                              for (int64_t i = 0; i < size; ++i) {
                                  sum[i] += at[i];
                                  square[i] += at[i] * at[i];
                              }
                          S part[16] =
                              {};  // sixteen chains of a fixed order, which the compiler may put into vectors
                          if (weight) {
                              int64_t i = 0;
                              for (; i + 16 <= size; i += 16)
                                  for (int j = 0; j < 16; ++j)
                                      part[j] += at[i + j] * at[i + j] * weight[i + j];
                              for (int j = 0; i + j < size; ++j)
                                  part[j] += at[i + j] * at[i + j] * weight[i + j];
                          }
                          for (const S p : part) score += p;
                          at += size;
                      };
                      for (size_t l = 0; l < in.net.layers.size(); ++l) {
                          const Layer& layer = in.net.layers[l];
                          block(static_cast<int64_t>(layer.in) * layer.out, w.weight ? w.weight[l] : nullptr,
                                g ? g.weight[l] : nullptr, g ? f.weight[l] : nullptr);
                          block(layer.out, w.weight ? w.bias[l] : nullptr, g ? g.bias[l] : nullptr,
                                g ? f.bias[l] : nullptr);
                      }
                      if (inverse) mutable_data<S>(scores)[s] = static_cast<S>(score);
                  }
              });
    return {scores, grads.weight, grads.bias, squares.weight, squares.bias};
}

FisherOut fisher_points(Tensor x, Tensor offsets, Tensors w, Tensors b, Tensor grad_y, Tensors inverse_w,
                        Tensors inverse_b, std::vector<int64_t> ints, std::vector<double> floats, bool sums) {
    return by_dtype(x, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        const Tensor gy = plain("grad_y", grad_y, x.scalar_type());
        check_shape("grad_y", gy, {in.points, in.net.out_dim});
        return points<S>(in, gy, inverse_of(in, inverse_w, inverse_b), sums);
    });
}

FisherOut fisher_segments(Tensor x, Tensor offsets, Tensors w, Tensors b, Tensor grad_y, Tensor bounds,
                          Tensor owned, Tensors inverse_w, Tensors inverse_b, std::vector<int64_t> ints,
                          std::vector<double> floats, bool sums) {
    return by_dtype(x, [&](auto s) {
        using S = decltype(s);
        const BankInputs<S> in(x, offsets, w, b, ints, floats);
        const Tensor gy = plain("grad_y", grad_y, x.scalar_type());
        check_shape("grad_y", gy, {in.points, in.net.out_dim});
        const auto edges = BankInputs<S>::read_offsets("segments", bounds, in.points);
        const auto shares =
            BankInputs<S>::read_offsets("segment_offsets", owned, static_cast<int64_t>(edges.size()) - 1);
        STD_TORCH_CHECK(shares.size() == in.offsets.size(), "mclnf_fast: segment_offsets must be [M + 1]");
        for (size_t m = 0; m < shares.size(); ++m)
            STD_TORCH_CHECK(edges[shares[m]] == in.offsets[m], "mclnf_fast: segments must not cross modules");
        return segments<S>(in, gy, edges, shares, inverse_of(in, inverse_w, inverse_b), sums);
    });
}

}  // namespace

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("fisher_points", TORCH_BOX(&mclnf::fisher_points));
    m.impl("fisher_segments", TORCH_BOX(&mclnf::fisher_segments));
}

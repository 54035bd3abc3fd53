// What `bank_fit` plans for a network, as ops.
#include "cuda/fit/network.h"

namespace mclnf {
namespace {

// -> points of a tile, what is in shared memory (parameters 1, gradients 2, activations 4, moments 8), bytes
// of it and of global memory, blocks on a multiprocessor
std::vector<int64_t> fit_plan_of(std::vector<int64_t> net_ints, std::vector<double> net_floats, int64_t bytes,
                                 bool adam, int64_t batch, int64_t block, int64_t precision, bool rays) {
    const FitNet net = fit_net(Net(net_ints, net_floats), static_cast<int>(precision), rays);
    const FitPlan plan =
        fit_plan(fit_shape(net, static_cast<int>(bytes), adam, batch), {block, block + 1024});
    return {plan.points, plan.params + 2 * plan.grads + 4 * plan.activations + 8 * plan.moments, plan.shared,
            plan.workspace, plan.blocks};
}

// -> shares of a step, its samples in each, blocks of a group, groups at a time, bytes of a group; of a step
// with
// // `batch` samples, of `bins` points each (0: which are points), on `processors` with `block` bytes of
// shared memory
std::vector<int64_t> fit_groups_of(std::vector<int64_t> net_ints, std::vector<double> net_floats,
                                   int64_t bytes, int64_t batch, int64_t bins, int64_t block,
                                   int64_t precision, int64_t modules, int64_t processors) {
    const FitNet net = fit_net(Net(net_ints, net_floats), static_cast<int>(precision), bins > 0);
    const FitShape shape = fit_shape(net, static_cast<int>(bytes), true, bins > 0 ? 0 : batch);
    const FitPlan plan = fit_plan(shape, {block, block + 1024});
    const FitCut cut = fit_cut(batch, plan.points, static_cast<int>(bins));
    const FitGroups groups =
        fit_groups(shape, plan, batch, static_cast<int>(bins), modules, processors, plan.blocks);
    return {cut.shares, cut.samples, groups.blocks, groups.groups, groups.bytes};
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_FRAGMENT(mclnf_fast_emulated, m) {
    m.def(
        "fit_plan(int[] net_ints, float[] net_floats, int bytes, bool adam, int batch, int block, int "
        "precision, bool rays) -> int[]");
    m.def(
        "fit_groups(int[] net_ints, float[] net_floats, int bytes, int batch, int bins, int block, "
        "int precision, int modules, int processors) -> int[]");
}
STABLE_TORCH_LIBRARY_IMPL(mclnf_fast_emulated, CompositeExplicitAutograd, m) {
    m.impl("fit_plan", TORCH_BOX(&mclnf::fit_plan_of));
    m.impl("fit_groups", TORCH_BOX(&mclnf::fit_groups_of));
}

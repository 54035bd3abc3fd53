// Grid encodings on the CPU: threads share the points, or the levels' tables when gradients are added up;
// the arithmetic is csrc/math/grid.h.
//
// A table's gradient is owned: each part of a level's table (in one module) is added to by one thread, point
// after point, so that neither the number of threads nor the parts change a bit. Atomic additions would need
// no parts, but their order, and with it the last bits, would be chance.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <tuple>

#include "grid_layout.h"
#include "grid_points.h"
#include "rays.h"

namespace mclnf {
namespace {

constexpr int64_t kMinPoints = 1024;     // points below which a second thread costs more than it brings
constexpr int64_t kMaxPoints = 1 << 17;  // points that a thread takes through all levels, at most
constexpr int64_t kCache = 8 << 20;      // bytes of a table up to which all its levels stay in the last cache
constexpr int64_t kMaxParts = 8;         // of a level's table: each part's owner goes over all points

// Clones can't be templates, hence one function per type and job.
#define MCLNF_GRID_JOBS(CLONES, T)                                                                        \
    CLONES void forward_share(const GridCall<T>& in, GridShare share) { forward_points<0>(in, share); }   \
    CLONES void backward_share(const GridCall<T>& in, GridShare share) { backward_points<0>(in, share); } \
    CLONES void second_share(const GridCall<T>& in, GridShare share) { second_points<0>(in, share); }     \
    CLONES void scatter_share(const GridCall<T>& in, GridShare share) { scatter_points<0>(in, share); }
MCLNF_GRID_JOBS(MCLNF_CLONES, float)
MCLNF_GRID_JOBS(, double)  // which only checks of derivatives use

// Each share to the next free thread: its results do not depend on the thread that takes it.
template <typename F>
void each_share(const std::vector<GridShare>& shares, int64_t work, const F& f) {
    const int64_t count = static_cast<int64_t>(shares.size());
    const int64_t workers =
        std::min({static_cast<int64_t>(torch::stable::get_num_threads()), count, work / kMinPoints + 1});
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
        for (int64_t w = begin; w < end; ++w) {
            for (int64_t s = next++; s < count; s = next++) f(shares[static_cast<size_t>(s)]);
        }
    });
}

std::vector<GridShare> shares_of_points(const GridInputs& in) {
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t each = (in.points + threads - 1) / std::max<int64_t>(threads, 1);
    // A large table is read level by level, by many points each time; with a small one the points' own rows
    // stay near.
    const bool small = in.layout.numbers * static_cast<int64_t>(sizeof(float)) <= kCache;
    const int64_t max_size = small ? kMinPoints : kMaxPoints;
    const int64_t size =
        std::max(kMinPoints, std::min(max_size, (each + kGridTile - 1) / kGridTile * kGridTile));
    std::vector<GridShare> shares;
    for (int64_t m = 0; m < in.modules; ++m) {
        for (int64_t at = in.offsets[m]; at < in.offsets[m + 1]; at += size)
            shares.push_back({m, at, std::min(at + size, in.offsets[m + 1]), 0, 0, 0});
    }
    return shares;
}

std::vector<GridShare> shares_of_tables(const GridInputs& in) {
    const int64_t levels = static_cast<int64_t>(in.layout.levels.size());
    const int64_t wanted = 4 * static_cast<int64_t>(torch::stable::get_num_threads());
    const int64_t whole = std::max<int64_t>(1, in.modules * levels);
    const int64_t parts = wanted <= 4 ? 1 : std::min(kMaxParts, (wanted + whole - 1) / whole);
    std::vector<GridShare> shares;
    for (int64_t m = 0; m < in.modules; ++m) {
        for (int64_t l = levels - 1; l >= 0; --l) {  // the large ones first
            const int64_t features = in.layout.features;
            const int64_t entries = in.layout.levels[static_cast<size_t>(l)].numbers / features;
            const int64_t size = (entries + parts - 1) / parts;
            for (int64_t e = 0; e < entries; e += size) {
                const int64_t count = std::min(size, entries - e);
                shares.push_back({m, in.offsets[m], in.offsets[m + 1], static_cast<int>(l),
                                  static_cast<uint32_t>(e * features),
                                  static_cast<uint32_t>(count * features)});
            }
        }
    }
    return shares;
}

template <typename T>
GridCall<T> call_of(const GridInputs& in) {
    GridCall<T> call{};
    call.map = in.layout.map<T>();
    call.levels = in.layout.levels.data();
    call.level_count = static_cast<int>(in.layout.levels.size());
    call.outputs = in.layout.outputs();
    call.together = in.layout.together;
    call.numbers = in.layout.numbers;
    call.x = pointer<T>(in.x);
    call.tables = pointer<T>(in.tables);
    return call;
}

GridInputs cpu_inputs(const Tensor& x, const Tensor& offsets, const Tensor& tables,
                      const std::vector<int64_t>& ints, const std::vector<double>& floats) {
    GridInputs in(x, offsets, tables, ints, floats);
    STD_TORCH_CHECK(offsets.is_cpu() && in.x.is_cpu(), "grid: offsets must be on x's device");
    const Tensor plain = contiguous_of("offsets", offsets);
    const int64_t* values = pointer<int64_t>(plain);
    in.offsets.assign(values, values + in.modules + 1);
    STD_TORCH_CHECK(in.offsets.front() == 0 && in.offsets.back() == in.points,
                    "grid: offsets must go from 0 to ", in.points);
    for (int64_t m = 0; m < in.modules; ++m)
        STD_TORCH_CHECK(in.offsets[m] <= in.offsets[m + 1], "grid: offsets must not go down");
    return in;
}

int64_t table_work(const GridInputs& in) { return in.points + in.modules * in.layout.numbers / 64; }

template <typename T>
Tensor forward(const GridInputs& in) {
    Tensor y = in.like_y(true);
    GridCall<T> call = call_of<T>(in);
    call.y = out_pointer<T>(y);
    each_share(shares_of_points(in), in.points, [&](const GridShare& s) { forward_share(call, s); });
    return y;
}

template <typename T>
std::tuple<Tensor, Tensor> backward(const GridInputs& in, const Tensor& grad_y, bool need_x,
                                    bool need_tables) {
    Tensor grad_x = in.like_x(need_x), grad_tables = in.like_tables(need_tables);
    GridCall<T> call = call_of<T>(in);
    call.grad_y = pointer<T>(grad_y);
    call.grad_x = need_x ? out_pointer<T>(grad_x) : nullptr;
    call.grad_tables = need_tables ? out_pointer<T>(grad_tables) : nullptr;
    if (need_x)
        each_share(shares_of_points(in), in.points, [&](const GridShare& s) { backward_share(call, s); });
    if (need_tables)
        each_share(shares_of_tables(in), table_work(in), [&](const GridShare& s) { scatter_share(call, s); });
    return {grad_x, grad_tables};
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> second(const GridInputs& in, const Tensor& grad_y,
                                          const OptTensor& tangent_x, const OptTensor& tangent_tables,
                                          bool need_x, bool need_tables, bool need_grad_y) {
    Tensor grad_x = in.like_x(need_x), grad_tables = in.like_tables(need_tables),
           grad_grad_y = in.like_y(need_grad_y);
    GridCall<T> call = call_of<T>(in);
    call.grad_y = pointer<T>(grad_y);
    call.tangent_x = pointer<T>(tangent_x);
    call.tangent_tables = pointer<T>(tangent_tables);
    call.grad_x = need_x ? out_pointer<T>(grad_x) : nullptr;
    call.grad_tables = need_tables ? out_pointer<T>(grad_tables) : nullptr;
    call.grad_grad_y = need_grad_y ? out_pointer<T>(grad_grad_y) : nullptr;
    if (need_x || need_grad_y)
        each_share(shares_of_points(in), in.points, [&](const GridShare& s) { second_share(call, s); });
    if (need_tables)
        each_share(shares_of_tables(in), table_work(in), [&](const GridShare& s) { scatter_share(call, s); });
    return {grad_x, grad_tables, grad_grad_y};
}

Tensor grid_encode_fwd(Tensor x, Tensor offsets, Tensor tables, std::vector<int64_t> ints,
                       std::vector<double> floats) {
    const GridInputs in = cpu_inputs(x, offsets, tables, ints, floats);
    return in.x.scalar_type() == ScalarType::Double ? forward<double>(in) : forward<float>(in);
}

std::tuple<Tensor, Tensor> grid_encode_bwd(Tensor x, Tensor offsets, Tensor tables, Tensor grad_y,
                                           std::vector<int64_t> ints, std::vector<double> floats, bool need_x,
                                           bool need_tables) {
    const GridInputs in = cpu_inputs(x, offsets, tables, ints, floats);
    const Tensor g = in.checked("grad_y", grad_y, in.y_shape());
    return in.x.scalar_type() == ScalarType::Double ? backward<double>(in, g, need_x, need_tables)
                                                    : backward<float>(in, g, need_x, need_tables);
}

std::tuple<Tensor, Tensor, Tensor> grid_encode_bwd_bwd(Tensor x, Tensor offsets, Tensor tables, Tensor grad_y,
                                                       OptTensor tangent_x, OptTensor tangent_tables,
                                                       std::vector<int64_t> ints, std::vector<double> floats,
                                                       bool need_x, bool need_tables, bool need_grad_y) {
    const GridInputs in = cpu_inputs(x, offsets, tables, ints, floats);
    GridInputs::check_directions(tangent_x.has_value(), tangent_tables.has_value(), need_tables);
    const Tensor g = in.checked("grad_y", grad_y, in.y_shape());
    if (tangent_x) tangent_x = in.checked("tangent_x", *tangent_x, in.x_shape());
    if (tangent_tables) tangent_tables = in.checked("tangent_tables", *tangent_tables, in.table_shape());
    return in.x.scalar_type() == ScalarType::Double
               ? second<double>(in, g, tangent_x, tangent_tables, need_x, need_tables, need_grad_y)
               : second<float>(in, g, tangent_x, tangent_tables, need_x, need_tables, need_grad_y);
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) {
    m.impl("grid_encode_fwd", TORCH_BOX(&mclnf::grid_encode_fwd));
    m.impl("grid_encode_bwd", TORCH_BOX(&mclnf::grid_encode_bwd));
    m.impl("grid_encode_bwd_bwd", TORCH_BOX(&mclnf::grid_encode_bwd_bwd));
}

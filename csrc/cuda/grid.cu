// Grid encodings on CUDA: the ops. grid_launch.h has the launches, csrc/math/grid.h the arithmetic.
#include <tuple>

#include "grid_launch.h"

namespace mclnf {
namespace {

template <typename T>
std::tuple<Tensor, Tensor> backward(const CudaGrid& grid, const Tensor& grad_y, bool need_x,
                                    bool need_tables) {
    const GridInputs& in = grid.in;
    Tensor grad_x = in.like_x(need_x), grad_tables = in.like_tables(need_tables);
    if (need_x && in.layout.corners() == 1)  // the nearest node is constant around almost every point
        torch::stable::zero_(grad_x);
    else if (need_x)
        grid.point_gradients<T>(pointer<T>(in.tables), nullptr, nullptr, pointer<T>(grad_y), grad_x);
    if (need_tables) grid.sums<T>(nullptr, pointer<T>(grad_y), grad_tables);
    return {grad_x, grad_tables};
}

// The terms of the double backward (csrc/math/grid.h) are those of the forward and the first backward, with
// tangent_tables as the weighted entries and the tables as the directional ones.
template <typename T>
std::tuple<Tensor, Tensor, Tensor> second(const CudaGrid& grid, const Tensor& grad_y,
                                          const OptTensor& tangent_x, const OptTensor& tangent_tables,
                                          bool need_x, bool need_tables, bool need_grad_y) {
    const GridInputs& in = grid.in;
    Tensor grad_x = in.like_x(need_x), grad_tables = in.like_tables(need_tables),
           grad_grad_y = in.like_y(need_grad_y);
    const T *along = pointer<T>(tangent_x), *values = pointer<T>(tangent_tables), *g = pointer<T>(grad_y);
    const T* directional = along ? pointer<T>(in.tables) : nullptr;
    if (need_grad_y) grid.gather<T>(values, directional, along, grad_grad_y);
    if (need_x && in.layout.corners() == 1)
        torch::stable::zero_(grad_x);
    else if (need_x)
        grid.point_gradients<T>(values, directional, along, g, grad_x);
    if (need_tables) grid.sums<T>(along, g, grad_tables);
    return {grad_x, grad_tables, grad_grad_y};
}

Tensor grid_encode_fwd(Tensor x, Tensor offsets, Tensor tables, std::vector<int64_t> ints,
                       std::vector<double> floats) {
    const DeviceOf guard(x);
    const CudaGrid grid(x, offsets, tables, ints, floats);
    Tensor y = grid.in.like_y(true);
    if (x.scalar_type() == ScalarType::Double)
        grid.gather<double>(pointer<double>(grid.in.tables), nullptr, nullptr, y);
    else
        grid.gather<float>(pointer<float>(grid.in.tables), nullptr, nullptr, y);
    return y;
}

std::tuple<Tensor, Tensor> grid_encode_bwd(Tensor x, Tensor offsets, Tensor tables, Tensor grad_y,
                                           std::vector<int64_t> ints, std::vector<double> floats, bool need_x,
                                           bool need_tables) {
    const DeviceOf guard(x);
    const CudaGrid grid(x, offsets, tables, ints, floats);
    const Tensor g = grid.checked("grad_y", grad_y, grid.in.y_shape());
    return x.scalar_type() == ScalarType::Double ? backward<double>(grid, g, need_x, need_tables)
                                                 : backward<float>(grid, g, need_x, need_tables);
}

std::tuple<Tensor, Tensor, Tensor> grid_encode_bwd_bwd(Tensor x, Tensor offsets, Tensor tables, Tensor grad_y,
                                                       OptTensor tangent_x, OptTensor tangent_tables,
                                                       std::vector<int64_t> ints, std::vector<double> floats,
                                                       bool need_x, bool need_tables, bool need_grad_y) {
    const DeviceOf guard(x);
    const CudaGrid grid(x, offsets, tables, ints, floats);
    const GridInputs& in = grid.in;
    GridInputs::check_directions(tangent_x.has_value(), tangent_tables.has_value(), need_tables);
    const Tensor g = grid.checked("grad_y", grad_y, in.y_shape());
    if (tangent_x) tangent_x = grid.checked("tangent_x", *tangent_x, in.x_shape());
    if (tangent_tables) tangent_tables = grid.checked("tangent_tables", *tangent_tables, in.table_shape());
    return x.scalar_type() == ScalarType::Double
               ? second<double>(grid, g, tangent_x, tangent_tables, need_x, need_tables, need_grad_y)
               : second<float>(grid, g, tangent_x, tangent_tables, need_x, need_tables, need_grad_y);
}

}  // namespace
}  // namespace mclnf

MCLNF_CUDA_OPS(m) {
    m.impl("grid_encode_fwd", TORCH_BOX(&mclnf::grid_encode_fwd));
    m.impl("grid_encode_bwd", TORCH_BOX(&mclnf::grid_encode_bwd));
    m.impl("grid_encode_bwd_bwd", TORCH_BOX(&mclnf::grid_encode_bwd_bwd));
}

// A grid's description as the compiled ops receive it: `GridLayout.packed` of mclnf_fast/grids.py, read back,
// and the ops' tensors, checked against it.
#pragma once

#include <vector>

#include "math/grid_table.h"
#include "tensors.h"

namespace mclnf {

struct GridLayout {
    int dims, axes, features, interpolation;
    bool together;  // the levels' features are added up; else side by side
    double low, high;
    std::vector<GridLevel> levels;
    int64_t numbers = 0;  // of a module's table
    int64_t entries = 0;

    GridLayout(const std::vector<int64_t>& ints, const std::vector<double>& floats) {
        STD_TORCH_CHECK(ints.size() >= 6 && floats.size() == 2, "grid: the description has a wrong length");
        low = floats[0];
        high = floats[1];
        STD_TORCH_CHECK(std::isfinite(low) && std::isfinite(high) && low < high,
                        "grid: low must be below high");
        STD_TORCH_CHECK(ints[0] >= 1 && ints[0] <= (1 << 20), "grid: coordinates out of range");
        STD_TORCH_CHECK(ints[1] >= 1 && ints[1] <= kGridAxes && ints[1] <= ints[0],
                        "grid: axes out of range");
        STD_TORCH_CHECK(ints[2] >= 1 && ints[2] <= 4096, "grid: features out of range");
        STD_TORCH_CHECK(ints[3] >= 0 && ints[3] < kGridInterpolations, "grid: unknown interpolation");
        STD_TORCH_CHECK(ints[4] == 0 || ints[4] == 1, "grid: unknown reduction");
        STD_TORCH_CHECK(ints[5] >= 1 && ints[5] <= 64, "grid: levels out of range");
        dims = static_cast<int>(ints[0]);
        axes = static_cast<int>(ints[1]);
        features = static_cast<int>(ints[2]);
        interpolation = static_cast<int>(ints[3]);
        together = ints[4] == 1;
        const size_t own = 3 + static_cast<size_t>(axes);
        STD_TORCH_CHECK(ints.size() == 6 + own * static_cast<size_t>(ints[5]),
                        "grid: the description has a wrong length");
        for (size_t at = 6; at < ints.size(); at += own) add_level(ints.data() + at);
    }

    int outputs() const { return features * (together ? 1 : static_cast<int>(levels.size())); }
    int corners() const { return interpolation == kGridNearest ? 1 : 1 << axes; }

    template <typename T>
    GridMap<T> map() const {
        return {static_cast<T>(low), static_cast<T>(high), dims, axes, corners(), features, interpolation};
    }

  private:
    void add_level(const int64_t* given) {
        constexpr uint32_t primes[kGridAxes] = {1u, 2654435761u, 805459861u, 3674653429u};
        GridLevel level{};
        STD_TORCH_CHECK(given[0] >= 1 && given[0] <= (1 << 20), "grid: cells out of range");
        STD_TORCH_CHECK(given[1] >= 1 && given[1] <= (1 << 30), "grid: entries out of range");
        STD_TORCH_CHECK(given[2] == 0 || given[2] == 1, "grid: a level is dense (0) or hashed (1)");
        const int64_t size = given[1];
        STD_TORCH_CHECK(size * features < (int64_t{1} << 32), "grid: a level's table is too large");
        level.cells = static_cast<int>(given[0]);
        level.hashed = given[2] == 1;
        level.mask = static_cast<uint32_t>(size - 1);
        level.scale = level.cells / (high - low);
        int64_t nodes = 1;
        for (int a = 0; a < axes; ++a) {
            STD_TORCH_CHECK(given[3 + a] >= 0 && given[3 + a] < dims,
                            "grid: a level reads a coordinate that is not there");
            level.axis[a] = static_cast<int>(given[3 + a]);
            level.factor[a] = level.hashed ? primes[a] : static_cast<uint32_t>(nodes);
            nodes *= level.cells + 1;
            STD_TORCH_CHECK(level.hashed || nodes <= size, "grid: a dense level has more nodes than entries");
        }
        STD_TORCH_CHECK(!level.hashed || (size & (size - 1)) == 0,
                        "grid: a hashed level must have a power of two entries");
        level.first = numbers;
        level.numbers = static_cast<uint32_t>(size * features);
        numbers += size * features;
        entries += size;
        levels.push_back(level);
    }
};

struct GridInputs {
    GridLayout layout;
    Tensor x, tables;
    int64_t points, modules;
    std::vector<int64_t> offsets;

    GridInputs(const Tensor& x_in, const Tensor& offsets_in, const Tensor& tables_in,
               const std::vector<int64_t>& ints, const std::vector<double>& floats)
        : layout(ints, floats),
          x(torch::stable::contiguous(x_in)),
          tables(torch::stable::contiguous(tables_in)) {
        const ScalarType dtype = x.scalar_type();
        STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                        "grid: x must be float32 or float64");
        STD_TORCH_CHECK(x.dim() == 2 && x.size(1) == layout.dims, "grid: x must be [N, ", layout.dims, "]");
        points = x.size(0);
        STD_TORCH_CHECK(tables.scalar_type() == dtype, "grid: tables must have x's dtype");
        STD_TORCH_CHECK(
            tables.dim() == 3 && tables.size(1) == layout.entries && tables.size(2) == layout.features,
            "grid: tables must be [M, ", layout.entries, ", ", layout.features, "]");
        modules = tables.size(0);
        STD_TORCH_CHECK(offsets_in.scalar_type() == ScalarType::Long && offsets_in.dim() == 1 &&
                            offsets_in.numel() == modules + 1,
                        "grid: offsets must be int64 [M + 1]");
        STD_TORCH_CHECK(tables.is_cpu() == x.is_cpu(), "grid: tables must be on x's device");
    }

    // Of the double backward.
    static void check_directions(bool tangent_x, bool tangent_tables, bool need_tables) {
        STD_TORCH_CHECK(tangent_x || tangent_tables, "grid: tangent_x or tangent_tables must be given");
        STD_TORCH_CHECK(tangent_x || !need_tables, "grid: the gradient of tables needs tangent_x");
    }

    // Like x, y or the tables; of no rows where it is not needed.
    Tensor like_x(bool needed) const {
        return torch::stable::new_empty(x, {needed ? points : 0, layout.dims});
    }
    Tensor like_y(bool needed) const {
        return torch::stable::new_empty(x, {needed ? points : 0, layout.outputs()});
    }
    Tensor like_tables(bool needed) const {
        return torch::stable::new_empty(x, {needed ? modules : 0, layout.entries, layout.features});
    }

    // A gradient or a direction, contiguous and of the shape of what it belongs to.
    Tensor checked(const char* name, const Tensor& t, const std::vector<int64_t>& shape) const {
        bool same = t.scalar_type() == x.scalar_type() && t.is_cpu() == x.is_cpu() &&
                    t.dim() == static_cast<int64_t>(shape.size());
        for (size_t d = 0; same && d < shape.size(); ++d) same = t.size(static_cast<int64_t>(d)) == shape[d];
        STD_TORCH_CHECK(same, "grid: ", name, " has a wrong shape, dtype or device");
        return torch::stable::contiguous(t);
    }
    std::vector<int64_t> x_shape() const { return {points, layout.dims}; }
    std::vector<int64_t> y_shape() const { return {points, layout.outputs()}; }
    std::vector<int64_t> table_shape() const { return {modules, layout.entries, layout.features}; }
};

}  // namespace mclnf

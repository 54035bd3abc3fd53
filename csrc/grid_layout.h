// A grid's description as the compiled ops receive it: `GridLayout.packed` of mclnf_fast/grids.py, read back,
// and the ops' tensors, checked against it.
#pragma once

#include <vector>

#include "math/grid_table.h"
#include "tensors.h"

namespace mclnf {

struct GridLayout {
    int dims, axes, features, interpolation;
    bool together;   // the levels' features are added up; else side by side
    bool half_cell;  // see math/grid.h
    double low, high;
    std::vector<GridLevel> levels;
    int64_t numbers = 0;  // of a module's table
    int64_t entries = 0;

    GridLayout(const std::vector<int64_t>& ints, const std::vector<double>& floats) {
        STD_TORCH_CHECK(ints.size() >= kGridFields && floats.size() >= 2,
                        "grid: the description has a wrong length");
        low = floats[0];
        high = floats[1];
        STD_TORCH_CHECK(std::isfinite(low) && std::isfinite(high) && low < high,
                        "grid: low must be below high");
        const int64_t dims_ = ints[kGridDims], axes_ = ints[kGridLevelAxes], features_ = ints[kGridFeatures];
        STD_TORCH_CHECK(dims_ >= 1 && dims_ <= kMaxSize, "grid: coordinates out of range");
        STD_TORCH_CHECK(axes_ >= 1 && axes_ <= kGridAxes && axes_ <= dims_, "grid: axes out of range");
        STD_TORCH_CHECK(features_ >= 1 && features_ <= kMaxGridFeatures, "grid: features out of range");
        STD_TORCH_CHECK(ints[kGridInterpolation] >= 0 && ints[kGridInterpolation] < kGridInterpolations,
                        "grid: unknown interpolation");
        STD_TORCH_CHECK(ints[kGridReduction] == kGridConcat || ints[kGridReduction] == kGridSum,
                        "grid: unknown reduction");
        STD_TORCH_CHECK(ints[kGridLevelCount] >= 1 && ints[kGridLevelCount] <= kMaxGridLevels,
                        "grid: levels out of range");
        STD_TORCH_CHECK(ints[kGridPlacement] == kGridBorder || ints[kGridPlacement] == kGridHalfCell,
                        "grid: unknown placement");
        half_cell = ints[kGridPlacement] == kGridHalfCell;
        dims = static_cast<int>(dims_);
        axes = static_cast<int>(axes_);
        features = static_cast<int>(features_);
        interpolation = static_cast<int>(ints[kGridInterpolation]);
        together = ints[kGridReduction] == kGridSum;
        const size_t level_ints = kGridLevelFields + static_cast<size_t>(axes);
        const size_t level_count = static_cast<size_t>(ints[kGridLevelCount]);
        STD_TORCH_CHECK(ints.size() == kGridFields + level_ints * level_count &&
                            floats.size() == 2 + (half_cell ? level_count : 0),
                        "grid: the description has a wrong length");
        for (size_t l = 0; l < level_count; ++l)
            add_level(ints.data() + kGridFields + l * level_ints, half_cell ? floats[2 + l] : 0.0);
    }

    int outputs() const { return features * (together ? 1 : static_cast<int>(levels.size())); }
    int corners() const { return interpolation == kGridNearest ? 1 : 1 << axes; }

    template <typename T>
    GridMap<T> map() const {
        return {static_cast<T>(low),
                static_cast<T>(high),
                dims,
                axes,
                corners(),
                features,
                interpolation,
                half_cell};
    }

  private:
    static constexpr int64_t kMaxSize = 1 << 20;     // of coordinates, and of cells along an axis
    static constexpr int64_t kMaxNodes = 1 << 30;    // of cells along an axis, if places go round
    static constexpr int64_t kMaxEntries = 1 << 30;  // of a level's table

    // scale: of a grid of half cells.
    void add_level(const int64_t* fields, double scale) {
        // Large primes spread the xor of the axes over the table; the first factor is 1 so that neighbors
        // along the first axis lie side by side in memory (arXiv 2201.05989). PRIMES of mclnf_fast/grids.py.
        constexpr uint32_t primes[kGridAxes] = {1u, 2654435761u, 805459861u, 3674653429u};
        GridLevel level{};
        const int64_t cells = fields[kGridLevelCells], size = fields[kGridLevelEntries],
                      table = fields[kGridLevelTable];
        STD_TORCH_CHECK(cells >= (half_cell ? 0 : 1) && cells <= (half_cell ? kMaxNodes : kMaxSize),
                        "grid: cells out of range");
        STD_TORCH_CHECK(std::isfinite(scale) && scale >= 0, "grid: a level's scale must not be negative");
        STD_TORCH_CHECK(size >= 1 && size <= kMaxEntries, "grid: entries out of range");
        STD_TORCH_CHECK(table == kGridDense || table == kGridHashed,
                        "grid: a level is dense (0) or hashed (1)");
        STD_TORCH_CHECK(size * features < (int64_t{1} << 32), "grid: a level's table is too large");
        level.cells = static_cast<int>(cells);
        level.hashed = table == kGridHashed;
        const bool power = (size & (size - 1)) == 0;
        STD_TORCH_CHECK(!level.hashed || power, "grid: a hashed level must have a power of two entries");
        level.mask = level.hashed || (half_cell && power) ? static_cast<uint32_t>(size - 1) : ~uint32_t{0};
        level.entries = half_cell && !power ? static_cast<uint32_t>(size) : 0;
        level.scale = half_cell ? scale : level.cells / (high - low);
        constexpr int64_t max_nodes = UINT32_MAX;  // that a place counts
        int64_t nodes = 1;
        for (int a = 0; a < axes; ++a) {
            const int64_t axis = fields[kGridLevelFields + a];
            STD_TORCH_CHECK(axis >= 0 && axis < dims, "grid: a level reads a coordinate that is not there");
            level.axis[a] = static_cast<int>(axis);
            level.factor[a] = level.hashed ? primes[a] : static_cast<uint32_t>(nodes);
            if (nodes <= max_nodes) nodes *= int64_t{level.cells} + 1;
            STD_TORCH_CHECK(level.hashed || half_cell || nodes <= size,
                            "grid: a dense level has more nodes than entries");
        }
        if (!level.hashed && nodes > max_nodes) {  // tiny-cuda-nn: all nodes share the first entry
            for (int a = 0; a < axes; ++a) level.factor[a] = 0;
        }
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
        : layout(ints, floats), x(contiguous_of("x", x_in)), tables(contiguous_of("tables", tables_in)) {
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

    // Like x, y or the tables; of no rows if it is not needed.
    Tensor like_x(bool needed) const {
        return torch::stable::new_empty(x, {needed ? points : 0, layout.dims});
    }
    Tensor like_y(bool needed) const {
        return torch::stable::new_empty(x, {needed ? points : 0, layout.outputs()});
    }
    Tensor like_tables(bool needed) const {
        return torch::stable::new_empty(x, {needed ? modules : 0, layout.entries, layout.features});
    }

    // A gradient or a tangent, contiguous, of the shape of its tensor.
    Tensor checked(const char* name, const Tensor& t, const std::vector<int64_t>& shape) const {
        bool same = t.scalar_type() == x.scalar_type() && t.is_cpu() == x.is_cpu() &&
                    t.dim() == static_cast<int64_t>(shape.size());
        for (size_t d = 0; same && d < shape.size(); ++d) same = t.size(static_cast<int64_t>(d)) == shape[d];
        STD_TORCH_CHECK(same, "grid: ", name, " has a wrong shape, dtype or device");
        return contiguous_of(name, t);
    }
    std::vector<int64_t> x_shape() const { return {points, layout.dims}; }
    std::vector<int64_t> y_shape() const { return {points, layout.outputs()}; }
    std::vector<int64_t> table_shape() const { return {modules, layout.entries, layout.features}; }
};

}  // namespace mclnf

// Grid encodings on CUDA: which launches an op takes. The kernels are in grid_values.h and grid_sums.h.
//
// Entries are read at random, so that speed is that of the cache they are in. The blocks of a launch go
// through all points on a few levels, then on the next few: the levels' tables stay in the second-level cache
// while every point passes, which all tables of a large grid together do not.
#pragma once

#include <algorithm>
#include <utility>

#include "grid_layout.h"
#include "grid_sums.h"
#include "grid_values.h"

namespace mclnf {

constexpr int64_t kCache = 16 << 20;  // bytes of tables, or of sums, that stay in the second-level cache
constexpr int kSector = 32;           // bytes of y that a thread writes if it takes several levels

struct LevelRange {
    int first, count;
};

class CudaGrid {
  public:
    CudaGrid(const Tensor& x, const Tensor& offsets, const Tensor& tables, const std::vector<int64_t>& ints,
             const std::vector<double>& floats)
        : in(x, offsets, tables, ints, floats),
          offsets_(contiguous_of("offsets", offsets)),
          stream_(current_stream(in.x)) {
        check_place("offsets", offsets);
        check_place("tables", tables);
        STD_TORCH_CHECK(in.modules > 0 || in.points == 0, "grid: there are points, but no modules");
    }

    const GridInputs in;

    Tensor checked(const char* name, const Tensor& t, const std::vector<int64_t>& shape) const {
        check_place(name, t);
        return in.checked(name, t, shape);
    }

    // y = sum_c w_c values_c + q_c directional_c
    template <typename T>
    void gather(const T* values, const T* directional, const T* along, const Tensor& y) const {
        if (in.points == 0) return;
        GridGather<T> job{values, directional, along, out_pointer<T>(y), 0, 0, 0};
        const int bytes = in.layout.features * static_cast<int>(sizeof(T));
        for (const LevelRange& levels : launches(kLaunchLevels)) {
            const GridLaunch<T> call = launch_of<T>(levels);
            job.each = in.layout.together ? levels.count : std::max(1, kSector / bytes);
            const int parts = (levels.count + job.each - 1) / job.each;
            const auto run = [&](auto axes, auto orders, auto block) {
                job.columns = in.layout.features / block();
                job.blocks = blocks_for(in.points * job.columns);
                launch(gather_kernel<axes(), orders(), block(), T>, blocks(job.blocks, parts), kThreads, 0,
                       stream_, call, job);
                check_cuda(cudaGetLastError(), "grid_encode: features");
            };
            with_axes<true>([&](auto axes) {
                with_block<T>({values, directional, job.y}, [&](auto block) {
                    directional ? run(axes, constant<2>, block) : run(axes, constant<1>, block);
                });
            });
        }
    }

    // grad_x = sum_c dw_c/dx <g, values_c> + dq_c/dx <g, directional_c>
    template <typename T>
    void point_gradients(const T* values, const T* directional, const T* along, const T* grad_y,
                         const Tensor& grad_x) const {
        if (in.points == 0) return;
        GridPointGradients<T> job{values, directional, along, grad_y, out_pointer<T>(grad_x), 1, true};
        for (const LevelRange& levels : launches(kLaunchLevels, kCache / static_cast<int64_t>(sizeof(T)))) {
            const GridLaunch<T> call = launch_of<T>(levels);
            const auto run = [&](auto axes, auto orders, auto block) {
                for (job.lanes = 1; job.lanes < 8 && 2 * job.lanes * block() <= in.layout.features;)
                    job.lanes *= 2;
                launch(point_gradients_kernel<axes(), orders(), block(), T>,
                       blocks_for(in.points * job.lanes), kThreads, 0, stream_, call, job);
                check_cuda(cudaGetLastError(), "grid_encode: gradient of x");
            };
            with_axes<false>([&](auto axes) {
                with_block<T>({values, directional, grad_y}, [&](auto block) {
                    directional ? run(axes, constant<3>, block) : run(axes, constant<2>, block);
                });
            });
            job.begin = false;
        }
    }

    // grad_tables = sum over points of w_c g, or of q_c g
    template <typename T>
    void sums(const T* along, const T* grad_y, const Tensor& grad_tables) const {
        const int64_t total = in.modules * in.layout.numbers;
        if (total == 0) return;
        constexpr int64_t words = kGridSumWords<T>;
        const std::vector<LevelRange> groups =
            launches(kLaunchLevels, kCache / static_cast<int64_t>(sizeof(int64_t)) / words / in.modules);
        int64_t max_numbers = 0;
        for (const LevelRange& levels : groups) max_numbers = std::max(max_numbers, numbers_of(levels));
        Tensor sums = torch::stable::new_zeros(in.x, {in.modules, max_numbers, words}, ScalarType::Long);
        Tensor broken = torch::stable::new_zeros(in.x, {(total + 31) / 32}, ScalarType::Int);
        Tensor largest = torch::stable::new_zeros(in.x, {in.modules}, ScalarType::Long);
        GridAddends<T> job{};
        job.grad_y = grad_y;
        job.along = along;
        job.largest = out_pointer<unsigned long long>(largest);
        job.sums = out_pointer<unsigned long long>(sums);
        job.broken = out_pointer<unsigned>(broken);
        job.grad_tables = out_pointer<T>(grad_tables);
        if (in.points > 0) {
            launch(largest_kernel<T>, blocks_for(in.points * in.layout.outputs(), kThreads * kLargestEach),
                   kThreads, 0, stream_, launch_of<T>(groups[0]), job);
            check_cuda(cudaGetLastError(), "grid_encode: largest cotangent");
        }
        for (size_t group = 0; group < groups.size(); ++group)
            sum_group(job, groups[group], group + 1 < groups.size());
    }

  private:
    template <int k>
    static constexpr std::integral_constant<int, k> constant{};

    void check_place(const char* name, const Tensor& t) const {
        STD_TORCH_CHECK(t.is_cpu() == in.x.is_cpu() && t.get_device_index() == in.x.get_device_index(),
                        "grid: ", name, " must be on x's device");
    }

    static unsigned blocks(unsigned per_part, int64_t parts) {
        const int64_t all = per_part * parts;
        STD_TORCH_CHECK(all <= 0x7fffffff, "grid: too many points for one launch");
        return static_cast<unsigned>(all);
    }

    int64_t numbers_of(const LevelRange& levels) const {
        int64_t numbers = 0;
        for (int l = 0; l < levels.count; ++l)
            numbers += in.layout.levels[static_cast<size_t>(levels.first + l)].numbers;
        return numbers;
    }

    // All levels in groups: of at most so many levels, and of so many numbers of a module's table, or one
    // level.
    std::vector<LevelRange> launches(int count, int64_t numbers = INT64_MAX) const {
        std::vector<LevelRange> groups;
        for (int l = 0; l < static_cast<int>(in.layout.levels.size()); ++l) {
            if (!groups.empty()) {
                LevelRange wider = groups.back();
                ++wider.count;
                if (wider.count <= count && numbers_of(wider) <= numbers) {
                    groups.back() = wider;
                    continue;
                }
            }
            groups.push_back({l, 1});
        }
        return groups;
    }

    template <typename T>
    GridLaunch<T> launch_of(const LevelRange& levels) const {
        GridLaunch<T> call{};
        call.map = in.layout.map<T>();
        for (int l = 0; l < levels.count; ++l)
            call.levels[l] = in.layout.levels[static_cast<size_t>(levels.first + l)];
        call.level_count = levels.count;
        call.first_level = levels.first;
        call.outputs = in.layout.outputs();
        call.together = in.layout.together;
        call.numbers = in.layout.numbers;
        call.points = in.points;
        call.modules = in.modules;
        call.offsets = pointer<int64_t>(offsets_);
        call.x = pointer<T>(in.x);
        return call;
    }

    template <typename T>
    void sum_group(GridAddends<T> job, const LevelRange& levels, bool again) const {
        const GridLaunch<T> call = launch_of<T>(levels);
        for (int l = 0; l < levels.count; ++l)
            job.factor[l] = grid_sum_factor(call.map, call.levels[l], job.along != nullptr);
        job.level_numbers = static_cast<uint32_t>(numbers_of(levels));
        job.again = again;
        if (in.points > 0) {
            job.blocks = blocks_for(in.points * in.layout.features);
            const unsigned all = blocks(job.blocks, levels.count);
            with_axes<true>([&](auto axes) {
                job.along ? launch(addends_kernel<axes(), 2, T>, all, kThreads, 0, stream_, call, job)
                          : launch(addends_kernel<axes(), 1, T>, all, kThreads, 0, stream_, call, job);
            });
            check_cuda(cudaGetLastError(), "grid_encode: addends");
        }
        job.blocks = blocks_for(job.level_numbers);
        launch(finish_kernel<T>, blocks(job.blocks, in.modules), kThreads, 0, stream_, call, job);
        check_cuda(cudaGetLastError(), "grid_encode: sums");
    }

    // Calls f with the number of axes as a constant, so that corners and weights stay in registers.
    template <bool kNearest, typename F>
    void with_axes(const F& f) const {
        if constexpr (kNearest)
            if (in.layout.corners() == 1) return f(constant<kGridOne>);
        switch (in.layout.axes) {
            case 1:
                return f(constant<1>);
            case 2:
                return f(constant<2>);
            case 3:
                return f(constant<3>);
            default:
                return f(constant<4>);
        }
    }

    // Calls f with the number of features that are read at once: 16 bytes if every entry is aligned to
    // them. double, which only checks of derivatives use, goes one by one.
    template <typename T, typename F>
    void with_block(std::initializer_list<const T*> pointers, const F& f) const {
        uintptr_t all = static_cast<uintptr_t>(in.layout.features) * sizeof(T);
        for (const T* p : pointers) all |= reinterpret_cast<uintptr_t>(p);
        if constexpr (std::is_same_v<T, float>) {
            if (all % 16 == 0) return f(constant<4>);
            if (all % 8 == 0) return f(constant<2>);
        }
        f(constant<1>);
    }

    Tensor offsets_;
    cudaStream_t stream_;
};

}  // namespace mclnf

// Draws of samples on the CPU.
#include "draw_ids.h"

#include <torch/csrc/stable/library.h>

#include "rays.h"

namespace mclnf {
namespace {

// Two ids per counter: of an odd batch, the last pair's second id is written and belongs to nobody.
MCLNF_CLONES void draw_uniform(const DrawCounter& at, int64_t n, int64_t batch, int64_t* ids) {
    const DrawCounter counter = at;
    const uint32_t blocks = static_cast<uint32_t>((batch + 1) / 2);
    for (uint32_t block = 0; block < blocks; ++block)
        uniform_pair(counter, block, static_cast<uint64_t>(n), ids[2 * block], ids[2 * block + 1]);
}

MCLNF_CLONES void draw_even(const DrawCounter& at, int64_t n, int64_t batch, int64_t* ids) {
    const DrawCounter counter = at;
    const int place = window_place(counter);
    const double samples_per_part = static_cast<double>(n) / (static_cast<double>(kDrawWindow) * batch);
    for (int64_t j = 0; j < batch; j += 4) {
        uint32_t words[4];
        counter.words(kDrawSamples, counter.step, static_cast<uint32_t>(j / 4), words);
        for (int i = 0; i < 4 && j + i < batch; ++i)
            ids[j + i] = even_id(j + i, place, words[i], n, samples_per_part);
    }
}

Tensor draw_ids(Tensor sizes_in, Tensor modules_in, Tensor steps_in, int64_t batch, int64_t rule,
                int64_t seed, int64_t task) {
    const Tensor tensors[] = {contiguous_of("sizes", sizes_in), contiguous_of("modules", modules_in),
                              contiguous_of("steps", steps_in)};
    const int64_t count = tensors[0].numel();
    for (const Tensor& t : tensors)
        STD_TORCH_CHECK(
            t.is_cpu() && t.scalar_type() == ScalarType::Long && t.dim() == 1 && t.numel() == count,
            "draw_ids: sizes, modules and steps must be int64 [M] on the CPU");
    STD_TORCH_CHECK(rule == kDrawUniform || rule == kDrawEven, "draw_ids: unknown rule");
    STD_TORCH_CHECK(batch >= 1 && batch <= (int64_t(1) << 31), "draw_ids: batch out of range");
    STD_TORCH_CHECK(task >= 0 && task <= kMaxDrawTask, "draw_ids: task out of range");
    const int64_t *sizes = pointer<int64_t>(tensors[0]), *modules = pointer<int64_t>(tensors[1]),
                  *steps = pointer<int64_t>(tensors[2]);
    for (int64_t m = 0; m < count; ++m)
        STD_TORCH_CHECK(sizes[m] >= 1 && sizes[m] <= kMaxDrawNumber && modules[m] >= 0 &&
                            modules[m] <= kMaxDrawNumber && steps[m] >= 0 && steps[m] <= kMaxDrawNumber,
                        "draw_ids: a size, module or step is out of range");
    Tensor ids = torch::stable::new_empty(tensors[0], {count, batch}, ScalarType::Long);
    int64_t* out = out_pointer<int64_t>(ids);
    torch::stable::parallel_for(
        0, count, std::max<int64_t>(1, 65536 / batch), [&](int64_t begin, int64_t end) {
            std::vector<int64_t> row(static_cast<size_t>(batch) + 1);
            for (int64_t m = begin; m < end; ++m) {
                draw_batch(static_cast<DrawRule>(rule), draw_counter(seed, task, modules[m], steps[m]),
                           sizes[m], batch, row.data());
                std::copy(row.begin(), row.begin() + batch, out + m * batch);
            }
        });
    return ids;
}

}  // namespace

void draw_batch(DrawRule rule, const DrawCounter& at, int64_t n, int64_t batch, int64_t* ids) {
    rule == kDrawEven ? draw_even(at, n, batch, ids) : draw_uniform(at, n, batch, ids);
}

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) { m.impl("draw_ids", TORCH_BOX(&mclnf::draw_ids)); }

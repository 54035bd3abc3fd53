// Rays in, pixels out on the CPU: a few rays at a time are marched, evaluated and composited front to back,
// so that no sample is written to memory and none is evaluated that light no longer reaches.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "bank_inputs.h"
#include "march_tensors.h"
#include "rays.h"
#include "shade.h"

namespace mclnf {
namespace {

constexpr int kBits = 64;              // bins that are marched at a time: the bits of a word
constexpr int64_t kSlots = 64;         // rays that take turns in them
constexpr int64_t kRaysAtOnce = 1024;  // of a module, that a thread takes
// Below this transmittance a sample changes no pixel: half a unit of float32 in a color of 1.
constexpr double kDark = 5.9604644775390625e-8;

template <class S>
struct Renderer {
    const Net& net;
    March<S> march;
    const S* view;        // [R, in_dim - 3]
    const S* background;  // [C] or [R, C], `background_stride` apart; or null
    int64_t background_stride;
    bool last_behind;
    int density, color;  // an Activation each
    S max_raw_density, dark;
    S *out_color, *out_opacity, *out_depth;
    int channels() const { return net.out_dim - 1; }
};

// A ray on its way: where it is, and what it has gathered (its color is gathered in the output).
template <class S>
struct Slot {
    int64_t ray = -1;
    MarchedRay<S> marched;
    int64_t next = 0;   // bin from which on none has been marched
    uint64_t word = 0;  // those of the last kBits bins that are still to come
    double march_depth = 0;
    S optical = 0, opacity = 0, depth = 0, end = 0;
    int first = 0, count = 0;  // its samples in this turn
    int light = 0;             // where its transmittances before them, and behind the last, begin
};

// One thread's rays of one module.
template <class S>
class RayTurns {
  public:
    RayTurns(const Renderer<S>& renderer, const Parameters<S>& parameters)
        : r_(renderer), parameters_(parameters), in_(renderer.net.in_dim), out_(renderer.net.out_dim) {
        x_.resize(kPoints * in_);
        y_.resize(kPoints * out_);
        starts_.resize(kPoints);
        ends_.resize(kPoints);
        last_.resize(kSlots * r_.channels());
        lengths_.resize(kPoints);
        density_.resize(kPoints);
        alpha_.resize(kPoints);
        color_.resize(kPoints * r_.channels());
        light_.resize(kPoints + kSlots);
    }

    // False if a ray has too many bins.
    bool run(int64_t begin, int64_t end) {
        next_ray_ = begin;
        end_ray_ = end;
        slots_.assign(kSlots, Slot<S>());
        bool fits = true;
        while (true) {
            int active = 0;
            for (Slot<S>& slot : slots_) {
                if (slot.ray < 0) fits &= begin_ray(slot);
                active += slot.ray >= 0;
            }
            if (!active) return fits;
            const int points = gather(std::max(1, kPoints / active));
            if (points > 0) {
                bank_table<S>().forward(r_.net, {parameters_, x_.data(), points}, y_.data(), nullptr);
                shade(y_.data(), lengths_.data(), points, r_.channels(), r_.density, r_.color,
                      r_.max_raw_density, {density_.data(), alpha_.data(), color_.data()});
                lighten();
            }
            for (Slot<S>& slot : slots_)
                if (slot.ray >= 0) composite(slot);
        }
    }

  private:
    // Gives the slot the next ray that meets the box; rays that do not are finished at once.
    bool begin_ray(Slot<S>& slot) {
        while (next_ray_ < end_ray_) {
            slot = Slot<S>();
            slot.ray = next_ray_++;
            S* color = color_of(slot);
            std::fill(color, color + r_.channels(), S(0));
            slot.marched = march_begin(r_.march, slot.ray);
            if (slot.marched.bins > kMaxBins) {
                slot.ray = -1;
                return false;
            }
            if (advance(slot)) return true;
            finish(slot, nullptr);
        }
        slot.ray = -1;
        return true;
    }

    // Marches on until a bin is there; false at the end of the ray.
    bool advance(Slot<S>& slot) const {
        S edges[kBits + 1];
        while (!slot.word) {
            if (slot.next >= slot.marched.bins) return false;
            const int m = static_cast<int>(std::min<int64_t>(slot.marched.bins - slot.next, kBits));
            march_edges(r_.march, slot.marched, static_cast<int32_t>(slot.next), m, edges);
            slot.word = march_keep<kBits>(r_.march, slot.marched, m, edges, slot.march_depth);
            slot.next += kBits;
        }
        return true;
    }

    // The points of the next samples of every ray, at most `most` of each; returns how many.
    int gather(int most) {
        int points = 0;
        for (Slot<S>& slot : slots_) {
            slot.first = points;
            slot.count = 0;
            if (slot.ray < 0) continue;
            const S *o = slot.marched.origin, *d = slot.marched.direction;
            const int64_t extra = in_ - 3;
            const S* view = r_.view ? r_.view + slot.ray * extra : nullptr;
            for (; slot.count < most && points < kPoints && advance(slot); ++slot.count, ++points) {
                const int32_t bin = static_cast<int32_t>(slot.next - kBits) + first_bit(slot.word);
                slot.word &= slot.word - 1;
                const S start = march_edge(slot.marched, false, bin),
                        end = march_edge(slot.marched, false, bin + 1);
                const S middle = (start + end) * S(0.5);
                starts_[points] = start;
                ends_[points] = end;
                lengths_[points] = end - start;
                S* x = x_.data() + static_cast<int64_t>(points) * in_;
                for (int axis = 0; axis < 3; ++axis) x[axis] = o[axis] + d[axis] * middle;
                for (int64_t e = 0; e < extra; ++e) x[3 + e] = view[e];
            }
        }
        return points;
    }

    // The transmittance before each sample of a ray and behind the last, for all rays.
    void lighten() {
        int n = 0;
        for (Slot<S>& slot : slots_) {
            slot.light = n;
            if (slot.ray < 0) continue;
            light_[n++] = slot.optical;
            for (int i = slot.first; i < slot.first + slot.count; ++i)
                light_[n++] = slot.optical += density_[i];
        }
        attenuate(light_.data(), n);
    }

    void composite(Slot<S>& slot) {
        S* const color = color_of(slot);
        S* const last = last_.data() + (&slot - slots_.data()) * r_.channels();
        for (int i = slot.first; i < slot.first + slot.count; ++i) {
            const S* light = light_.data() + slot.light + (i - slot.first);
            const S w = light[0] * alpha_[i];
            for (int c = 0; c < r_.channels(); ++c) {
                last[c] = color_[c * kPoints + i];
                color[c] += w * last[c];
            }
            slot.opacity += w;
            slot.depth += w * (starts_[i] + ends_[i]) * S(0.5);
            slot.end = ends_[i];
            if (light[1] < r_.dark) return finish(slot, last);
        }
        if (!advance(slot)) finish(slot, last);
    }

    // last: the color of the ray's last sample; null: it has none.
    void finish(Slot<S>& slot, const S* last) {
        const S* behind = r_.background ? r_.background + slot.ray * r_.background_stride : nullptr;
        if (r_.last_behind) behind = last;
        S* color = color_of(slot);
        const S rest = S(1) - slot.opacity;
        for (int c = 0; behind && c < r_.channels(); ++c) color[c] += rest * behind[c];
        r_.out_opacity[slot.ray] = slot.opacity;
        r_.out_depth[slot.ray] = slot.depth + (r_.last_behind && last ? rest * slot.end : S(0));
        slot.ray = -1;
    }

    S* color_of(const Slot<S>& slot) const { return r_.out_color + slot.ray * r_.channels(); }

    const Renderer<S>& r_;
    const Parameters<S> parameters_;
    const int64_t in_, out_;
    int64_t next_ray_ = 0, end_ray_ = 0;
    std::vector<Slot<S>> slots_;
    std::vector<S> x_, y_, starts_, ends_, lengths_, density_, alpha_, color_, light_;
    std::vector<S> last_;  // the color of each slot's last sample
};

template <class S>
std::tuple<Tensor, Tensor, Tensor> render(const MarchInputs& rays, const Net& net, const Tensor& ray_offsets,
                                          const Tensors& w, const Tensors& b,
                                          const OptTensor& view_directions, const OptTensor& background,
                                          bool last_behind, int64_t density, int64_t color,
                                          double max_raw_density, double early_stop_eps) {
    const ScalarType dtype = rays.origins.scalar_type();
    const std::vector<int64_t> offsets = read_offsets("ray_offsets", ray_offsets, rays.rays);
    const int64_t modules = static_cast<int64_t>(offsets.size()) - 1, channels = net.out_dim - 1;
    STD_TORCH_CHECK(net.in_dim >= 3 && channels >= 1,
                    "render_rays: the field must map places to densities and colors");
    STD_TORCH_CHECK(density >= 0 && density < kActivations && color >= 0 && color < kActivations,
                    "render_rays: unknown activation");
    const ParameterTensors<S> parameters("weights and biases", net, modules, w, b, dtype);
    const OptTensor view =
        view_directions ? OptTensor(plain("view_directions", *view_directions, dtype)) : OptTensor();
    STD_TORCH_CHECK(net.in_dim == 3 || (view && view->numel() == rays.rays * (net.in_dim - 3)),
                    "render_rays: view_directions must be [R, in_dim - 3]");
    const OptTensor behind = background ? OptTensor(plain("background", *background, dtype)) : OptTensor();
    const bool each = behind && behind->dim() == 2;
    STD_TORCH_CHECK(!behind || behind->numel() == (each ? rays.rays : 1) * channels,
                    "render_rays: background must be [C] or [R, C]");

    Tensor out_color = torch::stable::new_empty(rays.origins, {rays.rays, channels}),
           opacity = torch::stable::new_empty(rays.origins, {rays.rays}),
           depth = torch::stable::new_empty(rays.origins, {rays.rays});
    const Renderer<S> renderer{net,
                               rays.march<S>(),
                               pointer<S>(view),
                               pointer<S>(behind),
                               each ? channels : 0,
                               last_behind,
                               static_cast<int>(density),
                               static_cast<int>(color),
                               static_cast<S>(max_raw_density),
                               static_cast<S>(std::max(early_stop_eps, kDark)),
                               out_pointer<S>(out_color),
                               out_pointer<S>(opacity),
                               out_pointer<S>(depth)};
    Plan plan;
    for (int64_t m = 0; m < modules; ++m)
        for (int64_t first = offsets[m]; first < offsets[m + 1]; first += kRaysAtOnce)
            plan.runs.push_back({m, first, std::min(first + kRaysAtOnce, offsets[m + 1]), -1});
    std::atomic<bool> fits{true};
    each_run(plan, [&, par = RunParameters<S>(plan, ParameterView<S>(parameters, net))](int64_t r,
                                                                                        int64_t) mutable {
        const Run& run = plan.runs[r];
        if (!RayTurns<S>(renderer, par.at(r, -1)).run(run.begin, run.end)) fits = false;
    });
    if (!fits) MarchInputs::check_bins(kMaxBins + 1, rays.step);
    return {out_color, opacity, depth};
}

std::tuple<Tensor, Tensor, Tensor> render_rays(Tensor origins, Tensor directions, Tensor ray_offsets,
                                               Tensors w, Tensors b, Tensor aabb, OptTensor occupancy,
                                               OptTensor view_directions, OptTensor background,
                                               std::vector<int64_t> net_ints, std::vector<double> net_floats,
                                               int64_t bins, double step, double near, double far,
                                               bool last_behind, int64_t density, int64_t color,
                                               double max_raw_density, double early_stop_eps) {
    const Net net(net_ints, net_floats);
    const MarchInputs rays(origins, directions, occupancy, aabb, std::nullopt, std::nullopt, near, far, bins,
                           step, false, 0, 0.0);
    return by_dtype(rays.origins, [&](auto zero) {
        return render<decltype(zero)>(rays, net, ray_offsets, w, b, view_directions, background, last_behind,
                                      density, color, max_raw_density, early_stop_eps);
    });
}

}  // namespace
}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CPU, m) { m.impl("render_rays_fwd", TORCH_BOX(&mclnf::render_rays)); }

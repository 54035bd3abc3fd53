// What the kernel of `bank_fit` is given, and where a block finds it.
#pragma once

#include "cuda/launch.h"
#include "math/bank_step.h"
#include "math/draws.h"
#include "plan.h"

namespace mclnf {

// Features of a point that one thread computes: a coordinate, its sine and cosine, or spherical harmonics.
struct FitFeature {
    int kind, coordinate, row, second;  // second: the row of the cosine, or the degree
    double frequency;
};

// A tensor of the state [modules, size]; m and v are null for SGD, fisher and anchor without a trust region.
template <typename S>
struct FitTensor {
    S *p, *m, *v;
    const S *fisher, *anchor;
};

// The factors of a step that all modules share: they depend on its number.
template <typename S>
struct FitRate {
    S rate, floor;
};

struct FitNet {
    int layers, in_dim, out_dim, encoded, width;
    int pad;  // rows of layers are padded to multiples of it
    int activation, output_activation;
    bool in_place;  // derivatives are read off the activations and overwrite them
    double w0;
    int values;    // of the padded parameters
    int ray_rows;  // of samples that are rays: coordinates and spacings of their points
    FitLayer layer[kFitMaxLayers];

    // First rows of the activations: features, hidden layers, derivatives, outputs, and what rays need.
    MCLNF_HD int hidden(int l) const { return padded(encoded) + l * padded(width, pad); }
    MCLNF_HD int derivatives(int l) const { return hidden(in_place ? l : layers - 1 + l); }
    MCLNF_HD int outputs() const { return hidden((in_place ? 1 : 2) * (layers - 1)); }
    MCLNF_HD int places() const { return outputs() + padded(out_dim, pad); }
    MCLNF_HD int rows() const { return places() + ray_rows; }
};

// How rays become pixels: `bins` intervals each between their entry and exit of the box, whose borders are
// jittered by the number of the step. bins 0: the samples are points.
template <typename S>
struct FitRayCall {
    const S *directions, *view, *background;  // [R, 3], [R, in_dim - 3] or null, [3] or null: black
    int bins;
    S near, far;
    bool jitter;
    bool last_behind;  // the color of a ray's last point is its background
    bool hold_last;    // the density of a ray's last point gets no gradient
    bool exponential;  // density is exp(min(raw, max_raw_density)), otherwise max(raw, 0)
    int density_row;   // 0 or 3
    S max_raw_density;
};

// Options and state of the rule `guided`, in the device's memory: a kernel's parameters are full. With mix 0
// nothing is scored, and the pointers to the state are null.
template <typename S>
struct FitGuideCall {
    double mix, smooth, decay, damping;
    int64_t block, refresh;
    const int64_t* curve;  // the samples of each module in its order, like the rows of x; null: their own
    int64_t row;           // blocks of a module in `scores` and `window`
    double *scores, *window;
    int64_t* batches;               // in the running Fisher
    S* running[2 * kFitMaxLayers];  // the running Fisher, per tensor of the parameters
    FitGuidePlan plan;

    MCLNF_HD bool follows_scores() const { return mix > 0; }
};

// Where the blocks of a group meet; in a line of the cache of its own.
struct alignas(64) FitMeeting {
    unsigned long long arrivals;
    int64_t module[2];  // the one that the group has, and the one before
};

// A parameter of the kernel: 4 KB at most.
template <typename S>
struct FitCall {
    FitNet net;
    FitPlan plan;
    StepFactors<S> factors;  // rate and floor are each step's own
    int64_t modules, rows;   // rows: of x; a module's samples without offsets
    const int64_t* offsets;
    const S *x, *target, *weight;
    FitRayCall<S> rays;
    const FitGuideCall<S>* guide;  // null with another rule
    const FitFeature* features;
    int feature_count;
    FitTensor<S> tensors[2 * kFitMaxLayers];
    int64_t *steps, *ends;
    const int64_t *goal, *numbers;
    const FitRate<S>* rates;
    int64_t rate_count, sgd_steps, check_every;
    int rule;
    int64_t batch, seed, task;
    const int64_t* ids;
    int64_t id_rows;
    const S* ids_weight;
    const int64_t *log_at, *snapshot_at;
    int64_t logs;
    int snapshots;
    S* losses;
    S* const* copies;  // [snapshots, tensors]
    const double* stop_loss;
    double* checked;
    int* next;                 // module that waits for a block
    unsigned char* workspace;  // of all blocks
    unsigned char* groups;     // of all groups of blocks (group.h)
    FitMeeting* meetings;      // [groups]
    int64_t group_bytes;       // of a group in `groups`
    int group;                 // blocks of a group
    bool adam;
    int frozen;  // first tensors that stay as they are

    // Samples of a step, at most.
    int64_t most() const { return rule == kDrawWhole ? rows : batch; }
};
static_assert(sizeof(FitCall<float>) <= 4096 && sizeof(FitCall<double>) <= 4096, "parameters of a kernel");

// Whole warps of a block that work together.
struct FitTeam {
    int first, threads;

    __device__ static FitTeam all() { return {0, static_cast<int>(blockDim.x)}; }
    __device__ int thread() const { return static_cast<int>(threadIdx.x) - first; }
    __device__ int warp() const { return thread() / 32; }
    __device__ int lane() const { return thread() % 32; }
    __device__ int warps() const { return threads / 32; }
};

// A block's memory.
template <typename S>
struct FitMemory {
    double* errors;                    // per warp
    S* largest;                        // per warp: of the gradients, then of the pulls
    int64_t* module;                   // that the block has, and how many it has had with a group
    uint32_t* ids;                     // [points]
    S* weights;                        // [points]
    S *acts, *params, *grads, *m, *v;  // m and v: null if they are streamed
    S* ray;                            // of one that needs several tiles
    unsigned char* guide;              // FitGuidePlan is of it
};

// kNear: all is in shared memory, which the compiler must see.
template <typename S, bool kNear>
__device__ inline FitMemory<S> fit_memory(const FitCall<S>& c) {
    const FitPlan& plan = c.plan;
    unsigned char* near = dynamic_shared<unsigned char>();
    unsigned char* far = c.workspace + blockIdx.x * plan.workspace;
    FitMemory<S> mem;
    mem.errors = reinterpret_cast<double*>(near);
    mem.module = reinterpret_cast<int64_t*>(near + 64);
    mem.largest = reinterpret_cast<S*>(near + 128);
    static_assert(kFitMostWarps * 8 <= 64 && 2 * kFitMostWarps * 8 <= kFitControl - 128, "results of warps");
    near += kFitControl;
    const auto take = [&](bool shared, int64_t bytes) {
        unsigned char*& from = kNear || shared ? near : far;
        unsigned char* found = from;
        from += in_sixteens(bytes);
        return found;
    };
    constexpr int64_t kBytes = sizeof(S);
    const int64_t values = c.net.values * kBytes;
    mem.ids = reinterpret_cast<uint32_t*>(take(true, plan.points * 4));
    mem.weights = reinterpret_cast<S*>(take(true, plan.points * kBytes));
    mem.acts = reinterpret_cast<S*>(take(plan.activations, c.net.rows() * (plan.points + 4) * kBytes));
    mem.params = reinterpret_cast<S*>(take(plan.params, values));
    mem.grads = reinterpret_cast<S*>(take(plan.grads, values));
    mem.m = plan.moments ? reinterpret_cast<S*>(take(true, values)) : nullptr;
    mem.v = plan.moments ? reinterpret_cast<S*>(take(true, values)) : nullptr;
    mem.ray = reinterpret_cast<S*>(far);
    mem.guide = far;
    return mem;
}

}  // namespace mclnf

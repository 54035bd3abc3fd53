// The threads of a block as fibers. One that ends without having waited leaves its fiber to the next thread,
// so that a kernel without barriers is a plain loop.
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
extern "C" char __start_emulated_shared[] __attribute__((weak)),
    __stop_emulated_shared[] __attribute__((weak));
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulation {
namespace {

constexpr size_t kStack = size_t(1) << 18, kPage = size_t(1) << 12;

struct Fiber {
    ucontext_t context;
    char* stack = nullptr;  // the lowest page can't be touched: a stack that is full ends the program there
    const void* bottom = nullptr;  // for the address sanitizer
    size_t size = 0;

    void allocate() {
        void* found = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (found == MAP_FAILED) throw std::bad_alloc();
        stack = static_cast<char*>(found);
        mprotect(stack, kPage, PROT_NONE);
        bottom = stack + kPage;
        size = kStack - kPage;
    }
    ~Fiber() {
        if (!stack) return;
#ifdef __SANITIZE_ADDRESS__
        __asan_unpoison_memory_region(bottom, size);  // whose memory may become someone else's
#endif
        munmap(stack, kStack);
    }
};

enum class State { fresh, ready, waits, ended };

struct Thread {
    uint3 index;
    State state = State::fresh;
    Fiber* fiber = nullptr;
    const char* what = "";  // it waits for
    bool warp = false;
    unsigned mask = 0;
    size_t bytes = 0;
    const void* value = nullptr;
    void* all = nullptr;
    int sum = 0;
};

// Which of several to take next.
class Order {
  public:
    Order() {
        const char* name = getenv("MCLNF_EMULATION_ORDER");
        const std::string order = name && *name ? name : "forward";
        if (order.rfind("random:", 0) == 0) {
            random_ = true;
            numbers_.seed(static_cast<unsigned>(std::stoul(order.substr(7))));
        } else {
            reverse_ = order == "reverse";
            if (!reverse_ && order != "forward")
                throw std::runtime_error(
                    "MCLNF_EMULATION_ORDER must be forward, reverse or random:SEED, got " + order);
        }
    }
    size_t pick(size_t count) {
        if (random_) return numbers_() % count;
        return reverse_ ? count - 1 : 0;
    }
    // 0 ... count - 1
    std::vector<size_t> all(size_t count) {
        std::vector<size_t> found(count);
        std::iota(found.begin(), found.end(), size_t(0));
        if (reverse_) std::reverse(found.begin(), found.end());
        if (random_) std::shuffle(found.begin(), found.end(), numbers_);
        return found;
    }

  private:
    bool random_ = false, reverse_ = false;
    std::mt19937 numbers_;
};

struct Block {
    const std::function<void()>* body = nullptr;
    std::vector<Thread> threads;
    std::vector<size_t> can_run;  // fresh or ready, in order
    std::vector<Fiber*> idle;
    std::vector<std::unique_ptr<Fiber>> fibers;
    Fiber host;
    Fiber* on = nullptr;  // the fiber that runs
    size_t now = 0;       // the thread that runs
    size_t waiting = 0, ended = 0;
    std::unique_ptr<unsigned char[]> shared;
    std::string error;
    Order* order = nullptr;
};
Block* block = nullptr;

std::string describe(size_t t) {
    const Thread& thread = block->threads[t];
    return std::to_string(t) +
           (thread.state == State::ended ? " has ended" : " waits at " + std::string(thread.what));
}

std::string deadlock() {
    for (size_t t = 0; t < block->threads.size(); ++t) {
        const Thread& thread = block->threads[t];
        if (thread.state != State::waits) continue;
        const size_t first = thread.warp ? t / 32 * 32 : 0, count = thread.warp ? 32 : block->threads.size();
        for (size_t other = first; other < first + count; ++other) {
            if (thread.warp && !(thread.mask >> (other - first) & 1)) continue;
            std::string text =
                "emulated kernel, block " + std::to_string(blockIdx.x) + ": thread " + describe(t);
            if (thread.warp) text += " for the lanes " + std::to_string(thread.mask);
            if (other >= block->threads.size())
                return text + ", but the block has no thread " + std::to_string(other);
            const Thread& o = block->threads[other];
            if (o.state == State::waits && strcmp(o.what, thread.what) == 0 && o.mask == thread.mask)
                continue;
            return text + ", but thread " + describe(other);
        }
    }
    return "emulated kernel: no thread can run";
}

void switch_to(Fiber* next) {
    Fiber* last = block->on;
    block->on = next;
#ifdef __SANITIZE_ADDRESS__
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, next->bottom, next->size);
#endif
    swapcontext(&last->context, &next->context);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void fiber_body();

// Makes another thread the one that runs. Returns its fiber, or null where it has none yet; the host's where
// nothing is left to do.
Fiber* take_next() {
    std::vector<size_t>& can_run = block->can_run;
    if (can_run.empty()) {
        if (block->ended < block->threads.size()) block->error = deadlock();
        return &block->host;
    }
    const size_t at = block->order->pick(can_run.size());
    block->now = can_run[at];
    can_run.erase(can_run.begin() + static_cast<std::ptrdiff_t>(at));
    threadIdx = block->threads[block->now].index;
    return block->threads[block->now].fiber;
}

Fiber* idle_fiber() {
    if (block->idle.empty()) {
        block->fibers.push_back(std::make_unique<Fiber>());
        block->fibers.back()->allocate();
        block->idle.push_back(block->fibers.back().get());
    }
    Fiber* found = block->idle.back();
    block->idle.pop_back();
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(found->bottom, found->size);  // frames of an earlier use
#endif
    getcontext(&found->context);
    found->context.uc_stack.ss_sp = found->stack + kPage;
    found->context.uc_stack.ss_size = found->size;
    found->context.uc_link = nullptr;
    makecontext(&found->context, fiber_body, 0);
    return found;
}

// A fiber: threads one after the other, until one is to run that has a fiber of its own.
void fiber_body() {
#ifdef __SANITIZE_ADDRESS__
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!block->host.bottom) {  // the first fiber comes from there
        block->host.bottom = bottom;
        block->host.size = size;
    }
#endif
    Fiber *self = block->on, *next = nullptr;
    while (!next) {
        block->threads[block->now].fiber = self;
        (*block->body)();
        block->threads[block->now].state = State::ended;
        ++block->ended;
        next = take_next();
    }
    block->idle.push_back(self);
    switch_to(next);
}

void make_ready(size_t t) {
    block->threads[t].state = State::ready;
    --block->waiting;
    block->can_run.insert(std::lower_bound(block->can_run.begin(), block->can_run.end(), t), t);
}

// The running thread has said what it waits for; returns when it has it.
void give_way() {
    Fiber* self = block->on;
    Fiber* next = take_next();
    if (!next) next = idle_fiber();
    if (next != self) switch_to(next);
}

Thread& begin_wait(const char* what, bool warp, unsigned mask) {
    Thread& self = block->threads[block->now];
    self.what = what;
    self.warp = warp;
    self.mask = mask;
    self.state = State::waits;
    ++block->waiting;
    return self;
}

void run_block(const std::function<void()>& body, Order& order) {
    Block& b = *block;
    b.body = &body;
    b.order = &order;
    b.waiting = b.ended = 0;
    b.can_run.resize(b.threads.size());
    std::iota(b.can_run.begin(), b.can_run.end(), size_t(0));
    for (Thread& thread : b.threads) {
        thread.state = State::fresh;
        thread.fiber = nullptr;
    }
#ifndef __SANITIZE_ADDRESS__
    if (__start_emulated_shared)
        memset(__start_emulated_shared, 0xff,
               static_cast<size_t>(__stop_emulated_shared - __start_emulated_shared));
#endif
    take_next();
    b.on = &b.host;
    switch_to(idle_fiber());
    if (!b.error.empty()) throw std::runtime_error(b.error);
}

std::mutex one_at_a_time;

}  // namespace

void run_grid(dim3 blocks, dim3 threads, size_t shared_bytes, const std::function<void()>& thread) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const size_t count = size_t(threads.x) * threads.y * threads.z;
    const size_t grid = size_t(blocks.x) * blocks.y * blocks.z;
    if (count == 0 || count > 1024 || grid == 0 || blocks.x > 0x7fffffffu || blocks.y > 65535 ||
        blocks.z > 65535 || threads.z > 64 || shared_bytes > (227 << 10)) {
        set_last_error(cudaErrorInvalidConfiguration);
        return;
    }
    Order order;
    Block state;
    block = &state;
    blockDim = threads;
    gridDim = blocks;
    state.threads.resize(count);
    for (size_t t = 0; t < count; ++t) {
        const size_t row = t / threads.x;
        state.threads[t].index = {static_cast<unsigned>(t % threads.x),
                                  static_cast<unsigned>(row % threads.y),
                                  static_cast<unsigned>(row / threads.y)};
    }
    for (const size_t b : order.all(grid)) {
        const size_t row = b / blocks.x;
        blockIdx = {static_cast<unsigned>(b % blocks.x), static_cast<unsigned>(row % blocks.y),
                    static_cast<unsigned>(row / blocks.y)};
        state.shared.reset(new unsigned char[shared_bytes]);
        memset(state.shared.get(), 0xff, shared_bytes);
        run_block(thread, order);
    }
}

unsigned char* dynamic_shared() { return block->shared.get(); }

unsigned lane() { return static_cast<unsigned>(block->now % 32); }

int block_wait(const char* what, int value) {
    Thread& self = begin_wait(what, false, 0);
    self.sum = value;
    if (block->waiting == block->threads.size()) {
        int sum = 0;
        bool same = true;
        for (const Thread& t : block->threads) {
            same = same && !t.warp && strcmp(t.what, what) == 0;
            sum += t.sum;
        }
        for (size_t t = 0; same && t < block->threads.size(); ++t) {
            block->threads[t].sum = sum;
            make_ready(t);
        }
    }
    give_way();
    return self.sum;
}

void warp_wait(const char* what, unsigned mask, const void* value, void* all, size_t bytes) {
    const size_t first = block->now / 32 * 32;
    if (!(mask >> lane() & 1)) {
        block->error = "emulated kernel: thread " + std::to_string(block->now) + " calls " + what +
                       " for the lanes " + std::to_string(mask) + ", of which it is none";
        switch_to(&block->host);
    }
    Thread& self = begin_wait(what, true, mask);
    self.bytes = bytes;
    self.value = value;
    self.all = all;
    bool complete = true;
    for (size_t l = 0; l < 32 && complete; ++l) {
        if (!(mask >> l & 1)) continue;
        complete = first + l < block->threads.size();
        if (!complete) break;
        const Thread& o = block->threads[first + l];
        complete = o.state == State::waits && o.warp && o.mask == mask && o.bytes == bytes &&
                   strcmp(o.what, what) == 0;
    }
    if (complete) {
        for (size_t l = 0; l < 32; ++l) {
            if (!(mask >> l & 1)) continue;
            unsigned char* to = static_cast<unsigned char*>(block->threads[first + l].all);
            memset(to, 0xff, 32 * bytes);
            for (size_t from = 0; from < 32; ++from) {
                if (mask >> from & 1) memcpy(to + from * bytes, block->threads[first + from].value, bytes);
            }
        }
        for (size_t l = 0; l < 32; ++l) {
            if (mask >> l & 1) make_ready(first + l);
        }
    }
    give_way();
}

}  // namespace emulation

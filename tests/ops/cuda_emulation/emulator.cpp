// The threads of a block, or of all blocks of a launch together, as fibers. One that ends without having
// waited leaves its fiber to the next thread, so that a kernel without barriers is a plain loop.
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
    size_t block = 0;  // of those that run
    State state = State::fresh;
    Fiber* fiber = nullptr;
    const char* what = "";  // it waits for
    bool warp = false;
    unsigned mask = 0;
    size_t bytes = 0;
    const void* value = nullptr;
    void* all = nullptr;
    int sum = 0;
    std::function<bool()> ready;  // of one that waits for memory
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
    uint3 index;
    size_t waiting = 0;  // threads, for each other
    std::unique_ptr<unsigned char[]> shared;
};

// The blocks that run at the same time.
struct Running {
    const std::function<void()>* body = nullptr;
    std::vector<Block> blocks;
    size_t block_size = 0;
    std::vector<Thread> threads;  // block after block
    std::vector<size_t> can_run;  // fresh or ready, in order
    std::vector<size_t> polling;  // threads that wait for memory
    std::vector<Fiber*> idle;
    std::vector<std::unique_ptr<Fiber>> fibers;
    Fiber host;
    Fiber* on = nullptr;  // the fiber that runs
    size_t now = 0;       // the thread that runs
    size_t ended = 0;
    std::string error;
    Order* order = nullptr;

    Block& block() { return blocks[threads[now].block]; }
};
Running* running = nullptr;

// Its number in its block.
size_t number_of(size_t t) { return t % running->block_size; }

std::string describe(size_t t) {
    const Thread& thread = running->threads[t];
    return std::to_string(number_of(t)) +
           (thread.state == State::ended ? " has ended" : " waits at " + std::string(thread.what));
}

std::string deadlock() {
    const std::string kernel = "emulated kernel, block ";
    std::string polling;
    for (size_t t = 0; t < running->threads.size(); ++t) {
        const Thread& thread = running->threads[t];
        if (thread.state != State::waits) continue;
        std::string text =
            kernel + std::to_string(running->blocks[thread.block].index.x) + ": thread " + describe(t);
        if (thread.ready) {
            if (polling.empty()) polling = text + ", but nothing else can run";
            continue;
        }
        const size_t begin = thread.block * running->block_size, end = begin + running->block_size;
        const size_t first = thread.warp ? begin + number_of(t) / 32 * 32 : begin;
        for (size_t other = first; other < (thread.warp ? first + 32 : end); ++other) {
            if (thread.warp && !(thread.mask >> (other - first) & 1)) continue;
            std::string all = text;
            if (thread.warp) all += " for the lanes " + std::to_string(thread.mask);
            if (other >= end) return all + ", but the block has no thread " + std::to_string(other - begin);
            const Thread& o = running->threads[other];
            // One that waits for memory may come yet.
            if (o.state == State::waits &&
                (o.ready || (strcmp(o.what, thread.what) == 0 && o.mask == thread.mask)))
                continue;
            return all + ", but thread " + describe(other);
        }
    }
    return polling.empty() ? "emulated kernel: no thread can run" : polling;
}

void switch_to(Fiber* next) {
    Fiber* last = running->on;
    running->on = next;
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

void make_ready(size_t t) {
    running->threads[t].state = State::ready;
    running->can_run.insert(std::lower_bound(running->can_run.begin(), running->can_run.end(), t), t);
}

// Threads that have what they waited for in memory can run.
void poll() {
    std::vector<size_t>& polling = running->polling;
    for (size_t i = 0; i < polling.size();) {
        Thread& thread = running->threads[polling[i]];
        if (!thread.ready()) {
            ++i;
            continue;
        }
        thread.ready = nullptr;
        make_ready(polling[i]);
        polling.erase(polling.begin() + static_cast<std::ptrdiff_t>(i));
    }
}

// Makes another thread the one that runs. Returns its fiber, or null where it has none yet; the host's where
// nothing is left to do.
Fiber* take_next() {
    poll();
    std::vector<size_t>& can_run = running->can_run;
    if (can_run.empty()) {
        if (running->ended < running->threads.size()) running->error = deadlock();
        return &running->host;
    }
    const size_t at = running->order->pick(can_run.size());
    running->now = can_run[at];
    can_run.erase(can_run.begin() + static_cast<std::ptrdiff_t>(at));
    threadIdx = running->threads[running->now].index;
    blockIdx = running->block().index;
    return running->threads[running->now].fiber;
}

Fiber* idle_fiber() {
    if (running->idle.empty()) {
        running->fibers.push_back(std::make_unique<Fiber>());
        running->fibers.back()->allocate();
        running->idle.push_back(running->fibers.back().get());
    }
    Fiber* found = running->idle.back();
    running->idle.pop_back();
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
    if (!running->host.bottom) {  // the first fiber comes from there
        running->host.bottom = bottom;
        running->host.size = size;
    }
#endif
    Fiber *self = running->on, *next = nullptr;
    while (!next) {
        running->threads[running->now].fiber = self;
        (*running->body)();
        running->threads[running->now].state = State::ended;
        ++running->ended;
        next = take_next();
    }
    running->idle.push_back(self);
    switch_to(next);
}

// The running thread has said what it waits for; returns when it has it.
void give_way() {
    Fiber* self = running->on;
    Fiber* next = take_next();
    if (!next) next = idle_fiber();
    if (next != self) switch_to(next);
}

Thread& begin_wait(const char* what, bool warp, unsigned mask) {
    Thread& self = running->threads[running->now];
    self.what = what;
    self.warp = warp;
    self.mask = mask;
    self.state = State::waits;
    return self;
}

void run_blocks(const std::function<void()>& body, Order& order) {
    Running& r = *running;
    r.body = &body;
    r.order = &order;
    r.ended = 0;
    r.can_run.resize(r.threads.size());
    std::iota(r.can_run.begin(), r.can_run.end(), size_t(0));
    for (Block& block : r.blocks) block.waiting = 0;
    for (Thread& thread : r.threads) {
        thread.state = State::fresh;
        thread.fiber = nullptr;
    }
#ifndef __SANITIZE_ADDRESS__
    if (__start_emulated_shared)
        memset(__start_emulated_shared, 0xff,
               static_cast<size_t>(__stop_emulated_shared - __start_emulated_shared));
#endif
    take_next();
    r.on = &r.host;
    switch_to(idle_fiber());
    if (!r.error.empty()) throw std::runtime_error(r.error);
}

std::mutex one_at_a_time;

// `together`: of all blocks, otherwise one after the other.
void run(dim3 blocks, dim3 threads, size_t shared_bytes, const std::function<void()>& thread, bool together) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const size_t count = size_t(threads.x) * threads.y * threads.z;
    const size_t grid = size_t(blocks.x) * blocks.y * blocks.z;
    if (count == 0 || count > 1024 || grid == 0 || blocks.x > 0x7fffffffu || blocks.y > 65535 ||
        blocks.z > 65535 || threads.z > 64 || shared_bytes > (227 << 10)) {
        set_last_error(cudaErrorInvalidConfiguration);
        return;
    }
    if (together && grid > blocks_together(shared_bytes)) {
        set_last_error(cudaErrorCooperativeLaunchTooLarge);
        return;
    }
    Order order;
    Running state;
    running = &state;
    blockDim = threads;
    gridDim = blocks;
    state.block_size = count;
    state.blocks.resize(together ? grid : 1);
    state.threads.resize(state.blocks.size() * count);
    for (size_t t = 0; t < state.threads.size(); ++t) {
        const size_t number = t % count, row = number / threads.x;
        state.threads[t].block = t / count;
        state.threads[t].index = {static_cast<unsigned>(number % threads.x),
                                  static_cast<unsigned>(row % threads.y),
                                  static_cast<unsigned>(row / threads.y)};
    }
    const auto place = [&](Block& block, size_t b) {
        const size_t row = b / blocks.x;
        block.index = {static_cast<unsigned>(b % blocks.x), static_cast<unsigned>(row % blocks.y),
                       static_cast<unsigned>(row / blocks.y)};
        block.shared.reset(new unsigned char[shared_bytes]);
        memset(block.shared.get(), 0xff, shared_bytes);
    };
    if (together) {
        for (size_t b = 0; b < grid; ++b) place(state.blocks[b], b);
        return run_blocks(thread, order);
    }
    for (const size_t b : order.all(grid)) {
        place(state.blocks[0], b);
        run_blocks(thread, order);
    }
}

}  // namespace

void run_grid(dim3 blocks, dim3 threads, size_t shared_bytes, const std::function<void()>& thread) {
    run(blocks, threads, shared_bytes, thread, false);
}
void run_together(dim3 blocks, dim3 threads, size_t shared_bytes, const std::function<void()>& thread) {
    run(blocks, threads, shared_bytes, thread, true);
}

unsigned char* dynamic_shared() { return running->block().shared.get(); }

unsigned lane() { return static_cast<unsigned>(number_of(running->now) % 32); }

void wait_until(const char* what, std::function<bool()> ready) {
    Thread& self = begin_wait(what, false, 0);
    self.ready = std::move(ready);
    running->polling.push_back(running->now);
    give_way();
}

int block_wait(const char* what, int value) {
    Thread& self = begin_wait(what, false, 0);
    self.sum = value;
    Block& block = running->block();
    if (++block.waiting == running->block_size) {
        const size_t first = self.block * running->block_size;
        int sum = 0;
        bool same = true;
        for (size_t t = first; t < first + running->block_size; ++t) {
            same = same && strcmp(running->threads[t].what, what) == 0;
            sum += running->threads[t].sum;
        }
        for (size_t t = first; same && t < first + running->block_size; ++t) {
            running->threads[t].sum = sum;
            make_ready(t);
        }
        if (same) block.waiting = 0;
    }
    give_way();
    return self.sum;
}

void warp_wait(const char* what, unsigned mask, const void* value, void* all, size_t bytes) {
    const size_t first = running->now - lane();
    const size_t end = (running->threads[running->now].block + 1) * running->block_size;
    if (!(mask >> lane() & 1)) {
        running->error = "emulated kernel: thread " + std::to_string(number_of(running->now)) + " calls " +
                         what + " for the lanes " + std::to_string(mask) + ", of which it is none";
        switch_to(&running->host);
    }
    Thread& self = begin_wait(what, true, mask);
    self.bytes = bytes;
    self.value = value;
    self.all = all;
    bool complete = true;
    for (size_t l = 0; l < 32 && complete; ++l) {
        if (!(mask >> l & 1)) continue;
        complete = first + l < end;
        if (!complete) break;
        const Thread& o = running->threads[first + l];
        complete = o.state == State::waits && o.warp && o.mask == mask && o.bytes == bytes &&
                   strcmp(o.what, what) == 0;
    }
    if (complete) {
        for (size_t l = 0; l < 32; ++l) {
            if (!(mask >> l & 1)) continue;
            unsigned char* to = static_cast<unsigned char*>(running->threads[first + l].all);
            memset(to, 0xff, 32 * bytes);
            for (size_t from = 0; from < 32; ++from) {
                if (mask >> from & 1) memcpy(to + from * bytes, running->threads[first + from].value, bytes);
            }
        }
        for (size_t l = 0; l < 32; ++l) {
            if (mask >> l & 1) make_ready(first + l);
        }
    }
    give_way();
}

}  // namespace emulation

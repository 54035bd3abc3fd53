// A launch: the threads of a block, or of all blocks of a launch together, run as fibers (threads.h) and wait
// for each other.
#include <mutex>

#include "threads.h"

#ifndef __SANITIZE_ADDRESS__
extern "C" char __start_emulated_shared[] __attribute__((weak)),
    __stop_emulated_shared[] __attribute__((weak));
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulation {
namespace {

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

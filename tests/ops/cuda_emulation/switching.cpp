// How the threads of the blocks that run take turns. One that ends without having waited leaves its fiber to
// the next thread, so that a kernel without barriers is a plain loop.
#include "threads.h"

namespace emulation {

Running* running = nullptr;

namespace {

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

}  // namespace

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

void make_ready(size_t t) {
    running->threads[t].state = State::ready;
    running->can_run.insert(std::lower_bound(running->can_run.begin(), running->can_run.end(), t), t);
}

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

void give_way() {
    Fiber* self = running->on;
    Fiber* next = take_next();
    if (!next) next = idle_fiber();
    if (next != self) switch_to(next);
}

}  // namespace emulation

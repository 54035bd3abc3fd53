// The threads of the blocks that run, as fibers, and how one gives way to the next (switching.cpp): for
// emulator.cpp.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {

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
extern Running* running;

// Of a thread of those that run: its number in its block.
inline size_t number_of(size_t t) { return t % running->block_size; }
// Lets a thread that waits run again.
void make_ready(size_t t);
// Makes another thread the one that runs. Returns its fiber, or null where it has none yet; the host's where
// nothing is left to do.
Fiber* take_next();
Fiber* idle_fiber();
void switch_to(Fiber* next);
// The running thread has said what it waits for; returns when it has it.
void give_way();

}  // namespace emulation

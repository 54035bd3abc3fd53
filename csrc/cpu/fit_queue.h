// Modules that wait for a thread.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>

namespace mclnf {

// Threads take the module that waits longest, make a slice of its steps and put it back: no thread waits for
// another before the last slices, however slow a foreign process makes it, and the cores end together
// (McNaughton's wrap-around rule). A module is with one thread at a time.
class FitQueue {
  public:
    explicit FitQueue(std::deque<int64_t> modules) : waiting_(std::move(modules)) {}

    // -1: none is left for this thread.
    int64_t take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (waiting_.empty()) return -1;
        const int64_t module = waiting_.front();
        waiting_.pop_front();
        return module;
    }
    void put_back(int64_t module) {
        const std::lock_guard<std::mutex> lock(mutex_);
        waiting_.push_back(module);
    }

  private:
    std::mutex mutex_;
    std::deque<int64_t> waiting_;
};

}  // namespace mclnf

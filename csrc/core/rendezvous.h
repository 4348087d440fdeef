// Where the parts of Context::run_together wait for each other.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace fastvision {

class Rendezvous {
 public:
  // n: what run_together divides.
  explicit Rendezvous(int64_t n) : n_(n) {}

  // Returns when all parts have come to their `round`-th meeting, counted from 1; `share` is how much of n this one
  // has. What any of them wrote before is seen by all after. Waits without sleeping: a round trip through the kernel
  // costs more than a step of a small layer.
  void meet(int64_t share, int64_t round) {
    if (share == n_) return;
    arrived_.fetch_add(share, std::memory_order_acq_rel);
    for (int tries = 0; arrived_.load(std::memory_order_acquire) < n_ * round; ++tries) {
      if (tries < kBusyTries) {
        pause();
      } else {
        std::this_thread::yield();  // another program has the core that we wait for
      }
    }
  }

 private:
  static constexpr int kBusyTries = 2000;

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  const int64_t n_;
  alignas(64) std::atomic<int64_t> arrived_{0};
};

}  // namespace fastvision

// Context of the kernels without torch: threads of the standard library, memory from malloc.
#pragma once

#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "core/context.h"

namespace fastvision {

class HostContext final : public Context {
 public:
  explicit HostContext(int threads) : threads_(threads) {}
  ~HostContext() {
    for (void* block : blocks_) std::free(block);
  }

  // Of exactly the size asked for, so that AddressSanitizer sees what goes beyond, and full of NaN.
  void* allocate(size_t bytes) override {
    void* block = nullptr;
    if (posix_memalign(&block, 64, bytes) != 0) std::abort();
    std::memset(block, 0xff, bytes);
    blocks_.push_back(block);
    return block;
  }

 protected:
  void run_parallel(int64_t n, RangeBody call, const void* body) override {
    std::vector<std::thread> workers;
    for (int64_t i = 1; i < threads_; ++i) {
      workers.emplace_back([=, this] { call(body, n * i / threads_, n * (i + 1) / threads_); });
    }
    call(body, 0, n / threads_);
    for (std::thread& worker : workers) worker.join();
  }

 private:
  int64_t threads_;
  std::vector<void*> blocks_;
};

}  // namespace fastvision

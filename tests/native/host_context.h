// Context of the kernels without torch: threads of the standard library, memory from malloc.
#pragma once

#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "core/context.h"
#include "core/gpu_float16.h"

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

  const char* multiply(const MatrixView& a, const MatrixView& b, void* to, DType to_dtype, bool add) override {
    const MatrixView result = matrix(to, to_dtype, a.rows, b.columns);
    for (int64_t i = 0; i < a.rows; ++i) {
      for (int64_t j = 0; j < b.columns; ++j) {
        double sum = add ? element(result, i, j) : 0;
        for (int64_t k = 0; k < a.columns; ++k) sum += element(a, i, k) * element(b, k, j);
        const auto rounded = static_cast<float>(sum);
        const int64_t at = i * result.row_stride + j;
        if (to_dtype == DType::f32) static_cast<float*>(to)[at] = rounded;
        if (to_dtype == DType::f16) static_cast<__half*>(to)[at] = __float2half(rounded);
        if (to_dtype == DType::bf16) static_cast<__nv_bfloat16*>(to)[at] = __float2bfloat16(rounded);
      }
    }
    return nullptr;
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
  void run_concurrent(int64_t n, RangeBody call, const void* body) override { run_parallel(n, call, body); }

 private:
  static double element(const MatrixView& m, int64_t i, int64_t j) {
    const int64_t at = i * m.row_stride + j * m.column_stride;
    if (m.dtype == DType::f16) return __half2float(static_cast<const __half*>(m.data)[at]);
    if (m.dtype == DType::bf16) return __bfloat162float(static_cast<const __nv_bfloat16*>(m.data)[at]);
    return static_cast<const float*>(m.data)[at];
  }

  int64_t threads_;
  std::vector<void*> blocks_;
};

}  // namespace fastvision

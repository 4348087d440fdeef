// What a kernel may ask of the program that calls it: memory, threads, a CUDA stream.
//
// The operators implement it over torch (core/torch_context.h), the sanitizer
// harness over malloc and std::thread, so kernels link neither.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/types.h"

namespace fastvision {

// A matrix in memory; strides in elements.
struct MatrixView {
  const void* data;
  DType dtype;
  int64_t rows, columns, row_stride, column_stride;

  MatrixView transposed() const { return {data, dtype, columns, rows, column_stride, row_stride}; }
};

// A dense one.
inline MatrixView matrix(const void* data, DType dtype, int64_t rows, int64_t columns) {
  return {data, dtype, rows, columns, columns, 1};
}

class Context {
 public:
  // At least `bytes` bytes, 64-byte aligned, uninitialised; device memory for a CUDA
  // kernel. Valid until the operator call ends (stream-ordered on CUDA).
  virtual void* allocate(size_t bytes) = 0;

  // Runs body(begin, end) over a partition of [0, n) on the threads at hand. A kernel
  // cannot see how many there are: equal results for every thread count follow from that.
  template <class Body>
  void parallel_for(int64_t n, const Body& body) {
    run_parallel(
        n, [](const void* b, int64_t begin, int64_t end) { (*static_cast<const Body*>(b))(begin, end); }, &body);
  }

  // The same with all parts running at the same time, so that they may wait for each other (core/rendezvous.h).
  template <class Body>
  void run_together(int64_t n, const Body& body) {
    run_concurrent(
        n, [](const void* b, int64_t begin, int64_t end) { (*static_cast<const Body*>(b))(begin, end); }, &body);
  }

  // `to`, a dense matrix, becomes a b, or with `add` to + a b. All are of one dtype, or `to` is fp32 and not added to.
  // Sums are fp32. Null, or what went wrong. For the large products of CUDA kernels, by cuBLAS.
  virtual const char* multiply(const MatrixView& /*a*/, const MatrixView& /*b*/, void* /*to*/, DType /*to_dtype*/,
                               bool /*add*/) {
    return "this context multiplies no matrices";
  }

  // cudaStream_t of the call; null on the CPU.
  virtual void* stream() const { return nullptr; }

 protected:
  using RangeBody = void (*)(const void* body, int64_t begin, int64_t end);
  virtual void run_parallel(int64_t n, RangeBody call, const void* body) = 0;
  virtual void run_concurrent(int64_t n, RangeBody call, const void* body) { call(body, 0, n); }
  ~Context() = default;
};

}  // namespace fastvision

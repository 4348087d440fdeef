// Context over torch: its allocators, its thread pool, its current stream.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/SmallVector.h>

#include "core/context.h"
#include "core/integers.h"
#include "core/memory.h"

namespace fastvision {

class TorchContext final : public Context {
 public:
  explicit TorchContext(c10::Device device) : device_(device) {}

  void* allocate(size_t bytes) override {
    const size_t aligned = round_up(bytes, kAlignment);
    if (device_.is_cpu() && used_ + aligned <= sizeof(arena_)) {
      void* start = arena_ + used_;
      used_ += aligned;
      return start;
    }
    if (device_.is_cpu()) {
      blocks_.push_back(allocate_block(aligned));
      return blocks_.back().get();
    }
    tensors_.push_back(at::empty({static_cast<int64_t>(aligned)}, at::device(device_).dtype(at::kByte)));
    return tensors_.back().mutable_data_ptr();
  }

  const char* multiply(const MatrixView& a, const MatrixView& b, void* to, DType to_dtype, bool add) override {
    // An operator under autocast has cast what is to be cast.
    const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
    at::Tensor left = tensor(a), right = tensor(b), result = tensor(matrix(to, to_dtype, a.rows, b.columns));
    if (add) {
      at::addmm_out(result, result, left, right);
    } else if (a.dtype == to_dtype) {
      at::mm_out(result, left, right);
    } else if (device_.is_cuda()) {
      at::mm_out(result, left, right, at::kFloat);
    } else {
      at::mm_out(result, left.to(at::kFloat), right.to(at::kFloat));
    }
    return nullptr;
  }

  void* stream() const override {
    if (device_.is_cpu()) return nullptr;
    return c10::impl::VirtualGuardImpl(device_.type()).getStream(device_).native_handle();
  }

 protected:
  void run_parallel(int64_t n, RangeBody call, const void* body) override {
    at::parallel_for(0, n, /*grain_size=*/1, [&](int64_t begin, int64_t end) { call(body, begin, end); });
  }

  // Every thread of an OpenMP team runs one part. A pool of threads gives no such promise.
  void run_concurrent(int64_t n, RangeBody call, const void* body) override {
#if AT_PARALLEL_OPENMP
    run_parallel(n, call, body);
#else
    call(body, 0, n);
#endif
  }

 private:
  at::Tensor tensor(const MatrixView& m) const {
    const auto dtype = m.dtype == DType::f32 ? at::kFloat : m.dtype == DType::bf16 ? at::kBFloat16 : at::kHalf;
    return at::from_blob(const_cast<void*>(m.data), {m.rows, m.columns}, {m.row_stride, m.column_stride},
                         at::device(device_).dtype(dtype));
  }

  static constexpr size_t kAlignment = 64;

  c10::Device device_;
  // Small problems are over in 2 us: they must not wait for malloc.
  alignas(kAlignment) std::byte arena_[32 * 1024];
  size_t used_ = 0;
  c10::SmallVector<c10::DataPtr, 4> blocks_;
  c10::SmallVector<at::Tensor, 4> tensors_;
};

}  // namespace fastvision

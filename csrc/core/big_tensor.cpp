#include "core/big_tensor.h"

#include <ATen/ops/empty.h>
#include <sys/mman.h>

namespace fastvision {
namespace {

constexpr size_t kBig = 32 << 20;
constexpr size_t kHugePage = 2 << 20;

}  // namespace

void wish_huge_pages(void* data, size_t bytes) {
  if (bytes < kBig) return;
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a wish: its failure changes nothing
}

at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options, at::MemoryFormat format) {
  at::Tensor tensor = at::empty(sizes, options, format);
  if (tensor.is_cpu()) wish_huge_pages(tensor.mutable_data_ptr(), tensor.nbytes());
  return tensor;
}

}  // namespace fastvision

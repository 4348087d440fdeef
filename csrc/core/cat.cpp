// torch.cat, whose result lies in memory kept from earlier calls: fresh memory takes longer than the copy.
#include <ATen/WrapDimUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <torch/library.h>

#include "core/autograd.h"
#include "core/memory.h"

namespace fastvision {
namespace {

using at::Tensor;

// Whether tensors like the first are joined without a second thought: no promotion, no gradient, no graph.
bool is_plain(const Tensor& tensor, const Tensor& first) {
  return tensor.is_cpu() && tensor.layout() == at::kStrided && tensor.scalar_type() == first.scalar_type() &&
         at::isFloatingType(tensor.scalar_type()) && tensor.dim() == first.dim() && tensor.is_contiguous() &&
         tensor.suggest_memory_format() == at::MemoryFormat::Contiguous && !is_traced(tensor) &&
         !has_forward_gradient(tensor) && !(at::GradMode::is_enabled() && requires_grad(tensor));
}

Tensor cat(at::TensorList tensors, int64_t dim) {
  const bool plain =
      !tensors.empty() && tensors[0].dim() > 1 && !inside_functional_transform() &&
      std::all_of(tensors.begin(), tensors.end(), [&](const Tensor& tensor) { return is_plain(tensor, tensors[0]); });
  if (!plain) return at::cat(tensors, dim);
  c10::SmallVector<int64_t, 5> sizes(tensors[0].sizes().begin(), tensors[0].sizes().end());
  int64_t& joined = sizes[at::maybe_wrap_dim(dim, tensors[0].dim())];
  for (const Tensor& tensor : tensors.slice(1)) joined += tensor.size(dim);
  Tensor result = empty_result(sizes, tensors[0].options(), at::MemoryFormat::Contiguous);
  return at::cat_out(result, tensors, dim);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, CompositeImplicitAutograd, m) {
  m.impl("cat", &cat);
}

TORCH_LIBRARY_IMPL(fastvision, FuncTorchBatched, m) {
  m.impl("cat", &cat);
}

}  // namespace fastvision

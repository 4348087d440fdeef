// Functions of torch whose results lie in memory kept from earlier calls: the first touch of fresh memory takes longer
// than they do.
#include <ATen/ExpandUtils.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mul.h>
#include <torch/library.h>

#include "core/autograd.h"
#include "core/memory.h"

namespace fastvision {
namespace {

using at::Tensor;

// Whether tensors like the first are used without a second thought: no promotion, no gradient, no graph.
bool is_plain(const Tensor& tensor, const Tensor& first) {
  return tensor.is_cpu() && tensor.layout() == at::kStrided && tensor.scalar_type() == first.scalar_type() &&
         at::isFloatingType(tensor.scalar_type()) && tensor.dim() == first.dim() && tensor.is_contiguous() &&
         tensor.suggest_memory_format() == at::MemoryFormat::Contiguous && !is_traced(tensor) &&
         !has_forward_gradient(tensor) && !(at::GradMode::is_enabled() && requires_grad(tensor));
}

bool are_plain(at::TensorList tensors) {
  return !tensors.empty() && tensors[0].dim() > 1 && !inside_functional_transform() &&
         std::all_of(tensors.begin(), tensors.end(), [&](const Tensor& t) { return is_plain(t, tensors[0]); });
}

Tensor cat(at::TensorList tensors, int64_t dim) {
  if (!are_plain(tensors)) return at::cat(tensors, dim);
  c10::SmallVector<int64_t, 5> sizes(tensors[0].sizes().begin(), tensors[0].sizes().end());
  int64_t& joined = sizes[at::maybe_wrap_dim(dim, tensors[0].dim())];
  for (const Tensor& tensor : tensors.slice(1)) joined += tensor.size(dim);
  Tensor result = empty_result(sizes, tensors[0].options(), at::MemoryFormat::Contiguous);
  return at::cat_out(result, tensors, dim);
}

// With torch's broadcasting.
template <class Function, class WriteTo>
Tensor of_two(const Tensor& a, const Tensor& b, const Function& function, const WriteTo& write_to) {
  if (!are_plain({a, b})) return function(a, b);
  Tensor result = empty_result(at::infer_size(a.sizes(), b.sizes()), a.options(), at::MemoryFormat::Contiguous);
  return write_to(result, a, b);
}

Tensor add(const Tensor& a, const Tensor& b) {
  return of_two(
      a, b, [](const Tensor& x, const Tensor& y) { return at::add(x, y); },
      [](Tensor& to, const Tensor& x, const Tensor& y) { return at::add_out(to, x, y); });
}

Tensor mul(const Tensor& a, const Tensor& b) {
  return of_two(
      a, b, [](const Tensor& x, const Tensor& y) { return at::mul(x, y); },
      [](Tensor& to, const Tensor& x, const Tensor& y) { return at::mul_out(to, x, y); });
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, CompositeImplicitAutograd, m) {
  m.impl("cat", &cat);
  m.impl("add", &add);
  m.impl("mul", &mul);
}

TORCH_LIBRARY_IMPL(fastvision, FuncTorchBatched, m) {
  m.impl("cat", &cat);
  m.impl("add", &add);
  m.impl("mul", &mul);
}

}  // namespace fastvision

// The operators on CPU and CUDA tensors: describe the problem, allocate, call the kernel library.
#include "pool/op.h"

#include <torch/library.h>

#include <array>
#include <limits>
#include <vector>

#include "conv/options.h"
#include "core/direct.h"
#include "core/memory.h"
#include "core/symbolic.h"
#include "core/torch_context.h"
#include "core/torch_kernels.h"
#include "pool/kernels.h"
#include "pool/reference.h"

namespace fastvision {
namespace {

using at::Tensor;

// One number stands for both axes, none for `absent`; zeros where the reference has an error to raise.
Pair both_axes(at::IntArrayRef values, Pair absent = {0, 0}) {
  if (values.empty()) return absent;
  if (values.size() > 2) return {0, 0};
  return {values.front(), values.back()};
}

bool has_kernel_layout(const Tensor& input) {
  return input.layout() == at::kStrided && !input.is_nested() && !is_symbolic(input) &&
         kernel_dtype(input.scalar_type()) && (input.dim() == 3 || input.dim() == 4) && input.numel() > 0 &&
         input.is_contiguous() && input.suggest_memory_format() == at::MemoryFormat::Contiguous;
}

// The problem, where a kernel has been written for such; the reference also runs for arguments that it refuses.
template <class Options>
std::optional<Pooling> windows_of(const Tensor& input, const Options& o) {
  const Pair kernel = both_axes(o.kernel_size), stride = both_axes(o.stride, kernel);
  const Pair padding = both_axes(o.padding, {-1, -1});
  const bool fits = kernel[0] > 0 && kernel[1] > 0 && stride[0] > 0 && stride[1] > 0 && padding[0] >= 0 &&
                    padding[1] >= 0 && padding[0] <= kernel[0] / 2 && padding[1] <= kernel[1] / 2;
  if (!fits || o.padding.size() > 2 || !has_kernel_layout(input)) return std::nullopt;
  Pooling p;
  p.dtype = *kernel_dtype(input.scalar_type());
  p.in_h = input.size(-2);
  p.in_w = input.size(-1);
  p.planes = input.numel() / (p.in_h * p.in_w);
  p.kernel_h = kernel[0];
  p.kernel_w = kernel[1];
  p.stride_h = stride[0];
  p.stride_w = stride[1];
  p.pad_h = padding[0];
  p.pad_w = padding[1];
  // Beyond these sizes windows are padding above all, and places in them no 32-bit numbers.
  const auto is_window = [](int64_t size, int64_t window, int64_t pad) {
    return pad <= size && window <= size + 2 * pad;
  };
  if (!is_window(p.in_h, p.kernel_h, p.pad_h) || !is_window(p.in_w, p.kernel_w, p.pad_w) ||
      p.in_w >= std::numeric_limits<int32_t>::max() / (p.kernel_h + 1)) {
    return std::nullopt;
  }
  p.out_h = pooled_size(p.in_h, p.kernel_h, p.stride_h, p.pad_h, o.ceil_mode);
  p.out_w = pooled_size(p.in_w, p.kernel_w, p.stride_w, p.pad_w, o.ceil_mode);
  return p;
}

std::optional<Pooling> problem(const Tensor& input, const MaxPoolOptions& o) {
  return both_axes(o.dilation) == Pair{1, 1} ? windows_of(input, o) : std::nullopt;
}

std::optional<AvgPooling> problem(const Tensor& input, const AvgPoolOptions& o) {
  const auto windows = windows_of(input, o);
  if (!windows || o.divisor_override == 0) return std::nullopt;
  return AvgPooling{*windows, o.count_include_pad, o.divisor_override.value_or(0)};
}

const PoolKernels* kernels_for(const Tensor& input) {
  return kernels_enabled() ? kernels_of(input.device(), &KernelLibrary::pool) : nullptr;
}

Tensor empty_output(const Pooling& p, const Tensor& input, at::ScalarType dtype) {
  c10::SmallVector<int64_t, 4> sizes(input.sizes().begin(), input.sizes().end());
  sizes[sizes.size() - 2] = p.out_h;
  sizes.back() = p.out_w;
  return empty_result(sizes, input.options().dtype(dtype), at::MemoryFormat::Contiguous);
}

void run(const PoolKernels& kernels, const Pooling& p, const Tensor& input, Tensor& output, int64_t* indices) {
  TorchContext context(input.device());
  const char* error = kernels.max_pool(p, {input.const_data_ptr(), output.mutable_data_ptr(), indices}, context);
  TORCH_CHECK(!error, "fastvision::max_pool2d: ", error);
}

Tensor max_pool2d(const Tensor& input, const MaxPoolOptions& options) {
  const PoolKernels* kernels = kernels_for(input);
  const auto p = kernels ? problem(input, options) : std::nullopt;
  if (!p) return max_pool2d_reference(input, options);
  Tensor output = empty_output(*p, input, input.scalar_type());
  run(*kernels, *p, input, output, nullptr);
  return output;
}

std::tuple<Tensor, Tensor> max_pool2d_with_indices(const Tensor& input, const MaxPoolOptions& options) {
  const PoolKernels* kernels = kernels_for(input);
  const auto p = kernels ? problem(input, options) : std::nullopt;
  if (!p || !kernels->is_faster_with_indices(*p)) return max_pool2d_with_indices_reference(input, options);
  Tensor output = empty_output(*p, input, input.scalar_type()), indices = empty_output(*p, input, at::kLong);
  run(*kernels, *p, input, output, indices.mutable_data_ptr<int64_t>());
  return {output, indices};
}

Tensor avg_pool2d(const Tensor& input, const AvgPoolOptions& options) {
  const PoolKernels* kernels = kernels_for(input);
  const auto p = kernels ? problem(input, options) : std::nullopt;
  if (!p) return avg_pool2d_reference(input, options);
  Tensor output = empty_output(*p, input, input.scalar_type());
  TorchContext context(input.device());
  const char* error = kernels->avg_pool(*p, {input.const_data_ptr(), output.mutable_data_ptr()}, context);
  TORCH_CHECK(!error, "fastvision::avg_pool2d: ", error);
  return output;
}

}  // namespace

bool max_pool2d_trains_by_kernel(const Tensor& input, const MaxPoolOptions& options) {
  const PoolKernels* kernels = kernels_for(input);
  const auto p = kernels ? problem(input, options) : std::nullopt;
  return p && kernels->is_faster_with_indices(*p);
}

const bool kHasDirectKernel = add_direct_kernel("fastvision::max_pool2d", [](at::ArrayRef<c10::IValue> options) {
  std::array<std::vector<int64_t>, 4> lists;
  for (size_t i = 0; i < lists.size(); ++i) lists[i] = options[i].toIntVector();
  return DirectKernel([lists, ceil_mode = options[lists.size()].toBool()](c10::Stack& stack) {
    set_results(stack, max_pool2d(stack[0].toTensor(), {lists[0], lists[1], lists[2], lists[3], ceil_mode}));
  });
});

const bool kHasDirectAvgKernel = add_direct_kernel("fastvision::avg_pool2d", [](at::ArrayRef<c10::IValue> options) {
  std::array<std::vector<int64_t>, 3> lists;
  for (size_t i = 0; i < lists.size(); ++i) lists[i] = options[i].toIntVector();
  const bool ceil_mode = options[3].toBool(), count_include_pad = options[4].toBool();
  return DirectKernel([=, divisor = options[5].toOptional<int64_t>()](c10::Stack& stack) {
    set_results(stack,
                avg_pool2d(stack[0].toTensor(), {lists[0], lists[1], lists[2], ceil_mode, count_include_pad, divisor}));
  });
});

// Every backend of stock's: a layer of ours may be given what has no kernel here, such as quantized tensors.
TORCH_LIBRARY_IMPL(fastvision, CompositeExplicitAutograd, m) {
  m.impl("max_pool2d", &from_flat_options<&max_pool2d_reference>);
  m.impl("max_pool2d_with_indices", &from_flat_options<&max_pool2d_with_indices_reference>);
  m.impl("avg_pool2d", &from_flat_avg_options<&avg_pool2d_reference>);
}

TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("max_pool2d", &from_flat_options<&max_pool2d>);
  m.impl("max_pool2d_with_indices", &from_flat_options<&max_pool2d_with_indices>);
  m.impl("avg_pool2d", &from_flat_avg_options<&avg_pool2d>);
}

TORCH_LIBRARY_IMPL(fastvision, CUDA, m) {
  m.impl("max_pool2d", &from_flat_options<&max_pool2d>);
  m.impl("max_pool2d_with_indices", &from_flat_options<&max_pool2d_with_indices>);
  m.impl("avg_pool2d", &from_flat_avg_options<&avg_pool2d>);
}

}  // namespace fastvision

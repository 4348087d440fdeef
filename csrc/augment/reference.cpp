// The family's reference: the same computation in stock PyTorch calls. It is the specification, the oracle of the
// tests, the baseline of the benchmarks, the fallback for what the kernels can't do, and the way to gradients.
#include "augment/reference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <torch/library.h>

namespace fastvision {
namespace {

using at::Tensor;

Tensor reference_operator(const Tensor& images, const Tensor& matrices, at::ArrayRef<double> scale,
                          at::ArrayRef<double> offset, std::string_view interpolation, std::string_view fill_mode,
                          double cval, at::MemoryFormat memory_format) {
  return affine_resample_reference(images, matrices,
                                   {images, matrices, scale, offset, interpolation, fill_mode, cval, memory_format});
}

// Where each pixel of the result comes from, (N, H, W): its row or its column.
Tensor coordinates(const Tensor& matrices, int64_t row, int64_t height, int64_t width) {
  const auto options = matrices.options();
  const Tensor m = matrices.select(1, row).unsqueeze(-1).unsqueeze(-1);  // (N, 3, 1, 1)
  return m.select(1, 0) * at::arange(height, options).unsqueeze(-1) +
         (m.select(1, 1) * at::arange(width, options) + m.select(1, 2));
}

// As augment/coordinates.h.
Tensor folded(const Tensor& c, const Tensor& inside, double last, Fill fill) {
  Tensor result = c;
  if (fill == Fill::wrap) {
    const Tensor periods = at::floor(c.abs() / last);
    result = at::where(c < 0, c + last * (periods + 1), c - last * periods);
  } else if (fill == Fill::reflect) {
    const double period = 2 * (last + 1);
    const Tensor shifted = c + 0.5;
    const Tensor forth = shifted - period * at::floor(shifted / period);
    result = at::minimum(forth, period - forth) - 0.5;
  }
  return at::where(inside, c, result).nan_to_num(0).clamp(0, last);
}

Tensor per_channel(at::ArrayRef<double> numbers, const Tensor& like) {
  return at::tensor(numbers, at::kDouble).to(like.options()).unsqueeze(-1).unsqueeze(-1);
}

}  // namespace

Tensor affine_resample_reference(const Tensor& images, const Tensor& matrices, const ResampleOptions& options) {
  const int64_t channels = images.size(1), height = images.size(2), width = images.size(3);
  const at::ScalarType dtype = resampled_dtype(images);
  if (images.sym_numel() == 0) {
    return at::empty_symint(images.sym_sizes(), images.options().dtype(dtype), options.memory_format);
  }
  const auto last_y = static_cast<double>(height - 1), last_x = static_cast<double>(width - 1);
  const Tensor m = matrices.to(at::kDouble);
  Tensor y = coordinates(m, 0, height, width), x = coordinates(m, 1, height, width);
  const Tensor inside_y = (y >= 0) & (y <= last_y), inside_x = (x >= 0) & (x <= last_x);
  y = folded(y, inside_y, last_y, options.fill);
  x = folded(x, inside_x, last_x, options.fill);

  const Tensor pixels = images.to(dtype).reshape({-1, channels, height * width});
  const auto at_pixels = [&](const Tensor& row, const Tensor& column) {
    const Tensor index = (row * width + column).to(at::kLong).flatten(1).unsqueeze(1).expand({-1, channels, -1});
    return at::gather(pixels, 2, index).view({-1, channels, height, width});
  };
  Tensor value;
  if (options.interpolation == Interpolation::nearest) {
    value = at_pixels(at::floor(y + 0.5), at::floor(x + 0.5));
  } else {
    const Tensor top = at::floor(y).clamp_max(std::max(last_y - 1, 0.0)), bottom = (top + 1).clamp_max(last_y);
    const Tensor left = at::floor(x).clamp_max(std::max(last_x - 1, 0.0)), right = (left + 1).clamp_max(last_x);
    const Tensor weight_y = (y - top).to(dtype).unsqueeze(1), weight_x = (x - left).to(dtype).unsqueeze(1);
    const auto row_of = [&](const Tensor& row) {
      const Tensor first = at_pixels(row, left);
      return first + weight_x * (at_pixels(row, right) - first);
    };
    const Tensor above = row_of(top);
    value = above + weight_y * (row_of(bottom) - above);
  }
  if (options.fill == Fill::constant) value = at::where((inside_y & inside_x).unsqueeze(1), value, options.cval);
  value = value * per_channel(options.scale, value) + per_channel(options.offset, value);
  return value.contiguous(options.memory_format);
}

TORCH_LIBRARY_IMPL(fastvision, CompositeImplicitAutograd, m) {
  m.impl("affine_resample_reference", &reference_operator);
}

}  // namespace fastvision

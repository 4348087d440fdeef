// Shape, dtype and memory format of the result without computing it: what torch.compile, torch.export and meta tensors
// ask. Sizes may be symbolic.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "augment/options.h"

namespace fastvision {
namespace {

at::Tensor affine_resample(const at::Tensor& images, const at::Tensor& matrices, at::ArrayRef<double> scale,
                           at::ArrayRef<double> offset, std::string_view interpolation, std::string_view fill_mode,
                           double cval, at::MemoryFormat memory_format) {
  const ResampleOptions checked(images, matrices, scale, offset, interpolation, fill_mode, cval, memory_format);
  return at::empty_symint(images.sym_sizes(), images.options().dtype(resampled_dtype(images)), memory_format);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, Meta, m) {
  m.impl("affine_resample", &affine_resample);
}

}  // namespace fastvision

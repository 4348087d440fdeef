// The operator on CPU and CUDA tensors: check, describe the problem, allocate, call the kernel library.
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <limits>

#include "augment/kernels.h"
#include "augment/options.h"
#include "augment/reference.h"
#include "core/memory.h"
#include "core/torch_context.h"
#include "core/torch_kernels.h"

namespace fastvision {
namespace {

using at::Tensor;

ImageStrides strides_of(const Tensor& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

bool suits_kernels(const Tensor& images) {
  if (images.scalar_type() != at::kByte && images.scalar_type() != at::kFloat) return false;
  if (images.size(1) > AffineResampling::kMaxChannels) return false;
  // Of the last pixel of an image, from its first.
  int64_t farthest = 0;
  for (int64_t dim = 1; dim < 4; ++dim) {
    if (dim > 1 && images.size(dim) > AffineResampling::kMaxSide) return false;
    if (images.stride(dim) > std::numeric_limits<int32_t>::max()) return false;
    farthest += (images.size(dim) - 1) * images.stride(dim);
  }
  return farthest <= std::numeric_limits<int32_t>::max();
}

AffineResampling describe(const Tensor& images, const Tensor& result, const ResampleOptions& options) {
  AffineResampling p;
  p.pixels = images.scalar_type() == at::kByte ? PixelType::u8 : PixelType::f32;
  p.interpolation = options.interpolation;
  p.fill = options.fill;
  p.cval = static_cast<float>(options.cval);
  p.batch = images.size(0);
  p.channels = images.size(1);
  p.height = images.size(2);
  p.width = images.size(3);
  p.image_strides = strides_of(images);
  p.result_strides = strides_of(result);
  for (int64_t c = 0; c < p.channels; ++c) {
    p.scale[c] = static_cast<float>(options.scale_of(c));
    p.offset[c] = static_cast<float>(options.offset_of(c));
  }
  return p;
}

Tensor affine_resample(const Tensor& images, const Tensor& matrices, at::ArrayRef<double> scale,
                       at::ArrayRef<double> offset, std::string_view interpolation, std::string_view fill_mode,
                       double cval, at::MemoryFormat memory_format) {
  const ResampleOptions options(images, matrices, scale, offset, interpolation, fill_mode, cval, memory_format);
  const AugmentKernels* kernels = kernels_enabled() ? kernels_of(images.device(), &KernelLibrary::augment) : nullptr;
  if (!kernels || images.numel() == 0 || !suits_kernels(images)) {
    return affine_resample_reference(images, matrices, options);
  }
  const c10::DeviceGuard guard(images.device());
  const Tensor m = matrices.to(at::kDouble).contiguous();
  Tensor result = empty_result(images.sizes(), images.options().dtype(at::kFloat), memory_format);
  TorchContext context(images.device());
  const char* error = kernels->resample(
      describe(images, result, options),
      {images.const_data_ptr(), m.const_data_ptr<double>(), result.mutable_data_ptr<float>()}, context);
  TORCH_CHECK(!error, "fastvision::affine_resample: ", error);
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("affine_resample", &affine_resample);
}

TORCH_LIBRARY_IMPL(fastvision, CUDA, m) {
  m.impl("affine_resample", &affine_resample);
}

}  // namespace fastvision

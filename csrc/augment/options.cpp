#include "augment/options.h"

#include <c10/util/Exception.h>

namespace fastvision {
namespace {

constexpr const char* kOp = "fastvision::affine_resample";

Interpolation interpolation_of(std::string_view name) {
  if (name == "bilinear") return Interpolation::bilinear;
  TORCH_CHECK_VALUE(name == "nearest", kOp, ": interpolation: expected 'bilinear' or 'nearest', got '", name, "'");
  return Interpolation::nearest;
}

Fill fill_of(std::string_view name) {
  if (name == "constant") return Fill::constant;
  if (name == "nearest") return Fill::nearest;
  if (name == "reflect") return Fill::reflect;
  TORCH_CHECK_VALUE(name == "wrap", kOp, ": fill_mode: expected 'constant', 'nearest', 'reflect' or 'wrap', got '",
                    name, "'");
  return Fill::wrap;
}

void check_per_channel(const char* name, at::ArrayRef<double> numbers, const at::Tensor& images) {
  TORCH_CHECK_VALUE(numbers.size() == 1 || images.sym_size(1) == static_cast<int64_t>(numbers.size()), kOp, ": ", name,
                    ": expected one number, or one for each of the ", images.sym_size(1), " channels, got ",
                    numbers.size());
}

}  // namespace

ResampleOptions::ResampleOptions(const at::Tensor& images, const at::Tensor& matrices, at::ArrayRef<double> scale_,
                                 at::ArrayRef<double> offset_, std::string_view interpolation_,
                                 std::string_view fill_mode, double cval_, at::MemoryFormat memory_format_)
    : scale(scale_),
      offset(offset_),
      interpolation(interpolation_of(interpolation_)),
      fill(fill_of(fill_mode)),
      cval(cval_),
      memory_format(memory_format_) {
  TORCH_CHECK(images.dim() == 4 && !images.is_complex(), kOp,
              ": images: expected real numbers of shape (N, C, H, W), got ", images.scalar_type(), " of shape ",
              images.sym_sizes());
  TORCH_CHECK(at::isFloatingType(matrices.scalar_type()) && matrices.dim() == 3 &&
                  matrices.sym_size(0) == images.sym_size(0) && matrices.sym_size(1) == 2 && matrices.sym_size(2) == 3,
              kOp, ": matrices: expected floating-point numbers of shape (", images.sym_size(0), ", 2, 3), got ",
              matrices.scalar_type(), " of shape ", matrices.sym_sizes());
  TORCH_CHECK(matrices.device() == images.device(), kOp, ": matrices: expected a tensor on ", images.device(), ", got ",
              matrices.device());
  check_per_channel("scale", scale, images);
  check_per_channel("offset", offset, images);
  TORCH_CHECK_VALUE(memory_format == at::MemoryFormat::Contiguous || memory_format == at::MemoryFormat::ChannelsLast,
                    kOp, ": memory_format: expected torch.contiguous_format or torch.channels_last, got ",
                    memory_format);
}

at::ScalarType resampled_dtype(const at::Tensor& images) {
  return at::isFloatingType(images.scalar_type()) ? images.scalar_type() : at::kFloat;
}

}  // namespace fastvision

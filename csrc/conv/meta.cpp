// Shapes, dtypes and memory formats of the results without computing them: what torch.compile,
// torch.export and meta tensors ask. Sizes may be symbolic.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "conv/options.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

ConvPool2dShape<c10::SymInt> shape_of(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight) {
  return output_shape<c10::SymInt>(o, input.sym_size(-2), input.sym_size(-1), weight.sym_size(2), weight.sym_size(3));
}

Tensor conv2d_pool2d(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                     const OptionalTensor& bias) {
  check_tensors(o, input, weight, bias);
  if (input.dim() == 3) return without_batch(o, conv2d_pool2d(o, input.unsqueeze(0), weight, bias));
  const auto shape = shape_of(o, input, weight);
  return at::empty_symint({input.sym_size(0), weight.sym_size(0), shape.out_h, shape.out_w}, input.options(),
                          output_memory_format(input, weight));
}

Tensor conv2d_batch_norm_pool2d(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                                const OptionalTensor& bias, const Tensor&, const Tensor&, const OptionalTensor&,
                                const OptionalTensor&, double) {
  return conv2d_pool2d(o, input, weight, bias);
}

std::tuple<Tensor, Tensor> conv2d_pool2d_with_selection(const ConvPool2dOptions& o, const Tensor& input,
                                                        const Tensor& weight, const OptionalTensor& bias) {
  const Tensor output = conv2d_pool2d(o, input, weight, bias);
  const bool needed = o.activation == Activation::relu || o.pool == Pool::max;
  return {output, at::empty_symint({needed ? input.sym_size(0) : c10::SymInt(0), output.sym_size(2), output.sym_size(3),
                                    output.sym_size(1)},
                                   input.options().dtype(at::kByte))};
}

std::tuple<Tensor, Tensor, Tensor> conv2d_pool2d_backward(const ConvPool2dOptions&, const Tensor&, const Tensor&,
                                                          const Tensor& input, const Tensor& weight,
                                                          std::array<bool, 3> mask) {
  const auto empty_if = [&](bool wanted, c10::SymIntArrayRef sizes, at::MemoryFormat format) {
    return wanted ? at::empty_symint(sizes, input.options(), format) : at::empty({0}, input.options());
  };
  return {empty_if(mask[0], input.sym_sizes(), output_memory_format(input, weight)),
          empty_if(mask[1], weight.sym_sizes(), at::MemoryFormat::Contiguous),
          empty_if(mask[2], weight.sym_sizes().slice(0, 1), at::MemoryFormat::Contiguous)};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, Meta, m) {
  m.impl("conv2d_pool2d", &WithOptions<&conv2d_pool2d>::call);
  m.impl("conv2d_batch_norm_pool2d", &WithOptions<&conv2d_batch_norm_pool2d>::call);
  m.impl("conv2d_pool2d_with_selection", &WithOptions<&conv2d_pool2d_with_selection>::call);
  m.impl("conv2d_pool2d_backward", &WithOptions<&conv2d_pool2d_backward>::call);
}

}  // namespace fastvision

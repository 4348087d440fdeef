// Every operator's schema: the table of contents of the native side.
#include <torch/library.h>

#include "conv/options.h"

namespace fastvision {

TORCH_LIBRARY(fastvision, m) {
  const auto def = [&m](const std::string& schema) { m.def(schema.c_str()); };
  const std::string& conv_options = kConvPool2dOptionsSchema;

  // 2-D convolution + bias + activation + pooling.
  def("conv2d_pool2d(Tensor input, Tensor weight, Tensor? bias=None, " + conv_options + ") -> Tensor");
  // The same for training: the second result tells where each output's gradient goes (conv/conv.h).
  def("conv2d_pool2d_with_selection(Tensor input, Tensor weight, Tensor? bias=None, " + conv_options +
      ") -> (Tensor, Tensor)");
  // Gradients of input, weight and bias; those not in output_mask are empty tensors.
  def("conv2d_pool2d_backward(Tensor grad_output, Tensor selection, Tensor input, Tensor weight, "
      "bool[3] output_mask, " +
      conv_options + ") -> (Tensor, Tensor, Tensor)");
  // The same computation in stock PyTorch calls.
  def("conv2d_pool2d_reference(Tensor input, Tensor weight, Tensor? bias=None, " + conv_options + ") -> Tensor");
}

}  // namespace fastvision

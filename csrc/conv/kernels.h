// The conv kernels of one library (an instruction set, CUDA, emulated CUDA) as a table of
// functions. conv/op.cpp checks the arguments, allocates the outputs and calls these.
#pragma once

#include "conv/conv.h"
#include "core/context.h"

namespace fastvision {

// Pointers are of the problem's dtype; `bias` may be null, `selection` is null in inference. Where `scale` is not, the
// weights of each output channel are multiplied by its element first.
struct ConvPool2dForward {
  const void* input;
  const void* weight;
  const void* bias;
  void* output;
  uint8_t* selection;
  const float* scale = nullptr;
};

// A null gradient is not wanted. grad_weight is dense (out, in / groups, kh, kw), grad_bias (out).
struct ConvPool2dBackward {
  const void* grad_output;
  const uint8_t* selection;  // null where needs_selection() is false
  const void* input;
  const void* weight;
  void* grad_input;
  void* grad_weight;
  void* grad_bias;
};

// Gradients a library has kernels for; the others go through stock PyTorch.
struct ConvGradients {
  bool input, weight;
};

// Every launch function returns null, or what went wrong.
struct ConvKernels {
  // Is there a kernel for this problem, and is it the faster choice? With batch == 0 the image sizes
  // are unknown (a compiled graph with dynamic shapes): true promises to run any of them.
  bool (*supports)(const ConvPool2d&);
  ConvGradients (*supported_gradients)(const ConvPool2d&);

  const char* (*forward)(const ConvPool2d&, const ConvPool2dForward&, Context&);
  const char* (*backward)(const ConvPool2d&, const ConvPool2dBackward&, Context&);

  // The gradient of the convolution's output, dense (batch, conv_h, conv_w, out_channels),
  // from that of the pooled output: what stock convolution backward takes.
  const char* (*unpool)(const ConvPool2d&, const void* grad_output, const uint8_t* selection, void* grad_conv,
                        Context&);

  bool reads_channels_last_weight = false;
  bool scales_float_weights = false;  // ConvPool2dForward::scale, where the dtype is float32
  bool has_all_activations = false;   // in inference without a pool; otherwise ReLU and none
};

}  // namespace fastvision

// The gradients of a convolution with a max-pool behind it. A pooled output is one of the convolution's outputs,
// its winner: for a 2x2 window at least 3/4 of the gradient of the convolution's output is zero, and ReLU kills
// more. These kernels go from living winner to living winner, where the direct ones multiply all the zeros.
#pragma once

#include "conv/kernels.h"

namespace fastvision {

// Of the weight's gradient: a row of the kernel is held in as many registers.
constexpr int kMaxSparseKernelWidth = 7;

// Where the sparse kernels can run and are the faster choice.
ConvGradients sparse_is_faster(const ConvPool2d& problem);

// False if there is nothing in the result yet: an infinity or a NaN among the inputs (of grad_weight) or the
// weights (of grad_input) times a zero gradient is NaN, which only the direct kernels compute.
bool sparse_grad_input(const ConvPool2d& problem, const ConvPool2dBackward& tensors, Context& context);
bool sparse_grad_weight(const ConvPool2d& problem, const ConvPool2dBackward& tensors, Context& context);

}  // namespace fastvision

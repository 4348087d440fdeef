// 1x1 convolution without a pool on contiguous images: a matrix product whose vectors are pixels that follow each other
// in a plane, so that neither inputs nor outputs are transposed and the weight is read as it is.
#pragma once

#include "conv/conv.h"
#include "conv/cpu/finish.h"
#include "conv/kernels.h"

namespace fastvision {

// Inference only: it keeps no selection.
bool pointwise_applies(const ConvPool2d& problem);

// Activations in registers: ReLU and ReLU6.
void pointwise_forward(const ConvPool2d& problem, const ConvPool2dForward& tensors, const Finish& finish,
                       Context& context);

}  // namespace fastvision

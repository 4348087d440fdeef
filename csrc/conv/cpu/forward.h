#pragma once

#include "conv/kernels.h"

namespace fastvision {

// Any problem with fp32, bf16 or fp16 tensors; arithmetic is fp32.
const char* direct_forward(const ConvPool2d& problem, const ConvPool2dForward& tensors, Context& context);

}  // namespace fastvision

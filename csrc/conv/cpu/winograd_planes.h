// 3x3 convolution of images with few channels and a 2x2 max-pool, by Winograd's F(2x2, 3x3) on planes: a tile is one
// pooling window, and a vector holds windows that follow each other in the output plane. Nothing is transposed.
#pragma once

#include "conv/conv.h"
#include "conv/kernels.h"

namespace fastvision {

bool winograd_planes_applies(const ConvPool2d& problem);

void winograd_planes_forward(const ConvPool2d& problem, const ConvPool2dForward& tensors, Context& context);

}  // namespace fastvision

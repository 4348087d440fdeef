// Convolution to a single pixel: a linear layer of its taps. Deep layers on small images, and squeeze-and-excitation.
#pragma once

#include "conv/conv.h"
#include "conv/cpu/finish.h"
#include "conv/kernels.h"

namespace fastvision {

bool makes_one_pixel(const ConvPool2d& problem);

// Whether the linear kernels are faster than stock. Time of stock / ours, one core of a Zen 3 (AVX2), batch 1 and 4:
// 1x1 2048>512 1.4, 1.9; 240>960 1.3, 1.8; 3x3 512>512 on one pixel 1.8, 2.5. (The direct kernel, which packs weights
// for a single use: 0.3 to 0.6 and 0.7 to 0.9.)
bool one_pixel_is_faster(const ConvPool2d& problem);

// Inference only: it keeps no selection.
void one_pixel_forward(const ConvPool2d& problem, const ConvPool2dForward& tensors, const Finish& finish,
                       Context& context);

}  // namespace fastvision

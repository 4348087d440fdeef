// Depthwise convolution without a pool: on contiguous images a plane at a time, its columns in the lanes, where
// channels in the lanes (depthwise_lanes.h) are not faster.
#pragma once

#include "conv/conv.h"
#include "conv/cpu/finish.h"
#include "conv/kernels.h"

namespace fastvision {

// Inference only: it keeps no selection. Time of stock / ours, one core of a Zen 3 (AVX2), batch 1 and 8: 3x3 32 planes
// @112 2.4-3.6, 144 @56 1.7-3.0, 384 @14 1.9, 960 @7 1.2-1.5, stride 2 96 @112 1.7-4, 576 @14 1.3; 5x5 240 @28 1.2-1.3,
// stride 2 480 @14 1.15; 7x7 96 @56 1.2 and 3.5, 192 @28 1.2, 384 @14 1.07.
bool depthwise_applies(const ConvPool2d& problem);

// Activations in registers: ReLU and ReLU6.
void depthwise_forward(const ConvPool2d& problem, const ConvPool2dForward& tensors, const Finish& finish,
                       Context& context);

}  // namespace fastvision

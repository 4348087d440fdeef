// Convolution without a pool on contiguous images, with the columns of output rows in the lanes: for outputs of a few
// channels, which would leave most lanes of the other kernels idle.
#pragma once

#include "conv/conv.h"
#include "conv/cpu/finish.h"
#include "conv/kernels.h"

namespace fastvision {

// Whether it runs what only stock would otherwise. Time of stock / ours, one core of a Zen 3 (AVX2), batch 1 and 8: 5x5
// 32>1 @64 6.5, 32>8 2.0, 32>12 1.65; 7x7 128>3 @64 4.6; 4x4 32>3 @64 4, stride 2 64>3 2.0; 3x3 3>8 @112 2.3, stride 2
// 16>8 1.8; groups of 4 channels, 3x3 128>128 @56 and @14 4 to 11, 1x1 240>240 @14 12, 24>240 @28 1.3; of 1 and 2
// channels, 3x3 32>64 @56 8.7.
bool planar_replaces_stock(const ConvPool2d& problem);

// Whether it does what the other kernels could. Their time / its own, on the same machine: one to four outputs of
// Winograd's algorithm, 64>4 @56 1.1 to 1.2, 64>3 @128 1.4, 256>2 @64 1.4; few inputs, 3>32 @224 stride 2 1.0 to 1.3,
// 7x7 3>64 @224 1.3, 9x9 1>64 @64 1.7.
bool planar_is_faster(const ConvPool2d& problem);

// Inference only: it keeps no selection.
void planar_forward(const ConvPool2d& problem, const ConvPool2dForward& tensors, const Finish& finish,
                    Context& context);

}  // namespace fastvision

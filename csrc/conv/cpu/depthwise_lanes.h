// Depthwise convolution without a pool with channels in the lanes: of channels_last images, and of contiguous ones
// whose rows would leave most of a vector idle, by way of a transposition.
#pragma once

#include "conv/conv.h"
#include "conv/cpu/finish.h"
#include "conv/kernels.h"

namespace fastvision {

// Calls f.template operator()<kernel size, stride>() with those of a problem that depthwise_applies to.
template <class F>
void visit_depthwise_sizes(const ConvPool2d& p, const F& f) {
  const bool is_dense = p.stride_h == 1;
  switch (p.kernel_h) {
    case 3:
      return is_dense ? f.template operator()<3, 1>() : f.template operator()<3, 2>();
    case 5:
      return is_dense ? f.template operator()<5, 1>() : f.template operator()<5, 2>();
    default:
      return f.template operator()<7, 1>();
  }
}

// Whether the images lie so, and are small enough where they are transposed; for what else is asked, see
// depthwise_applies. Time of stock / ours, one core of a Zen 4, batch 1, contiguous with AVX-512, the same by planes,
// and contiguous with AVX2: 3x3 576 planes @14 1.9, 1.5, 1.6; stride 2 144 @56 1.7, 1.3, 1.5; 5x5 480
// @14 1.9, 1.2, 1.6; stride 2 240 @56 1.6, 1.0, 1.5; 7x7 768 @7 2.4, 0.7, 2.2; 384 @14 1.9, 1.1, 1.5; 96
// @56 4.2, 3.4, 3.7. Channels_last with AVX-512: 3x3 960 @7 2.7, 256 @28 1.5, 32 @112 1.2; 7x7 384 @14 2.0, 96 @56 1.4;
// batches of 8 from memory 1.0 to 1.6.
bool suits_channel_lanes(const ConvPool2d& problem);

void depthwise_forward_in_lanes(const ConvPool2d& problem, const ConvPool2dForward& tensors, const Finish& finish,
                                Context& context);

}  // namespace fastvision

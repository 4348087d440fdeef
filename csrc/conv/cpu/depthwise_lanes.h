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

// Whether the images lie so; for what else is asked, see depthwise_applies.
bool suits_channel_lanes(const ConvPool2d& problem);

void depthwise_forward_in_lanes(const ConvPool2d& problem, const ConvPool2dForward& tensors, const Finish& finish,
                                Context& context);

}  // namespace fastvision

#pragma once

#include "conv/cpu/finish.h"
#include "conv/cpu/plan.h"
#include "conv/cpu/strip.h"
#include "conv/cpu/weights.h"
#include "conv/kernels.h"

namespace fastvision {

// One direct convolution: what to compute, from where, to where.
struct DirectConvolution {
  const ConvPool2d& problem;
  const DirectPlan& plan;
  const StripSource& source;
  const void* input;  // read where plan.in_place
  void* output;
  uint8_t* selection;  // null in inference
  const Finish& finish;
};

void run(const DirectConvolution& work, const Layer& layer, Context& context);

}  // namespace fastvision

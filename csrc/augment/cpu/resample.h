#pragma once

#include "augment/kernels.h"

namespace fastvision {

const char* affine_resample(const AffineResampling& p, const AffineResamplingArrays& arrays, Context& context);

}  // namespace fastvision

// Transformed weights from call to call.
#pragma once

#include <memory>

#include "conv/cpu/weights.h"
#include "core/context.h"

namespace fastvision::winograd {

// All blocks of a layer, one after the other, if an earlier call had the same weights; null otherwise, and for large
// weights. Weights are compared byte by byte with those of that call, so that no change of them is missed, whatever
// made it. The caller holds them: another thread may replace them.
std::shared_ptr<const float> kept_weights(const ConvPool2d& problem, const DirectPlan& plan, const Layer& layer,
                                          Context& context);

}  // namespace fastvision::winograd

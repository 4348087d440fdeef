#pragma once

#include "core/context.h"
#include "linear/kernels.h"

namespace fastvision {

// For fp32 weights, which it packs: a panel of features at a time, which all rows pass.
void linear_forward_of_many_rows(const Linear& problem, const LinearForward& tensors, Context& context);

}  // namespace fastvision

#pragma once

#include "core/context.h"
#include "linear/kernels.h"

namespace fastvision {

const char* linear_backward(const Linear& problem, const LinearBackward& tensors, Context& context);

}  // namespace fastvision

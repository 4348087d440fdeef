#pragma once

#include "linear/kernels.h"

namespace fastvision {

const char* linear_forward(const Linear&, const LinearForward&, Context&);

}  // namespace fastvision

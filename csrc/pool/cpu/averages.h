#pragma once

#include "pool/kernels.h"

namespace fastvision {

// Planes [first, last).
void average_planes(const AvgPooling& problem, const AvgPoolingArrays& arrays, int64_t first, int64_t last);

}  // namespace fastvision

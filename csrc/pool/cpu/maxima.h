#pragma once

#include "pool/kernels.h"

namespace fastvision {

// Planes [first, last) without indices, and with them.
void pool_planes(const Pooling& problem, const MaxPoolingArrays& arrays, int64_t first, int64_t last);
void pool_planes_with_indices(const Pooling& problem, const MaxPoolingArrays& arrays, int64_t first, int64_t last);

}  // namespace fastvision

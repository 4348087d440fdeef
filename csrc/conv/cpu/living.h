// What the sparse kernels (sparse.h) have in common.
#pragma once

#include <cstdint>

#include "core/simd.h"

namespace fastvision {

// A pooled gradient that reaches the convolution's output, and where in memory it finds what it is multiplied with.
struct Living {
  int32_t offset;
  float gradient;
};

// Additions in a row into one register, as in the direct kernels.
constexpr int64_t kMaxLivingChain = 128;

// The largest number whose distance in floats fits an offset.
constexpr int64_t kMaxLivingOffset = INT32_MAX;

// No infinity, no NaN: zero times the number is zero.
inline bool all_finite(const float* values, int64_t count) {
  Vec sum(0.f);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum = at::vec::fmadd(Vec::loadu(values + i), Vec(0.f), sum);
  if (i < count) sum = at::vec::fmadd(Vec::loadu(values + i, count - i), Vec(0.f), sum);
  return !sum.has_inf_nan();
}

}  // namespace fastvision

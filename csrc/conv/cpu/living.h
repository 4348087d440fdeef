// What the sparse kernels (sparse.h) have in common: lists of the living, as they go through the pool.
#pragma once

#include "conv/conv.h"
#include "core/simd.h"

namespace fastvision {

// Additions in a row into one register, as in the direct kernels.
constexpr int64_t kMaxLivingChain = 128;

// Pooled gradients that reach the convolution's output, and where each finds the numbers it is multiplied with.
struct LivingList {
  const int32_t* offsets;
  const float* gradients;
  int64_t count;
};

// Adds to a list the lanes of one vector whose bit is set. The list needs room for kLanes more than it holds.
inline FASTVISION_INLINE void append_living(const IntVec& offsets, const Vec& gradients, uint32_t mask,
                                            int32_t* list_offsets, float* list_gradients, int64_t& count) {
  compress(std::bit_cast<Vec>(offsets), mask).store(list_offsets + count);
  compress(gradients, mask).store(list_gradients + count);
  count += std::popcount(mask);
}

// The selection (conv.h) of some pixels, `pixel_stride` apart, as [channel][pixel]. Rows of the result are
// `target_stride` long, a multiple of kLanes; what lies behind the pixels is dead.
void transpose_codes(const uint8_t* codes, int64_t pixel_stride, int64_t pixels, int64_t channels, uint8_t* target,
                     int64_t target_stride);

// No infinity, no NaN: zero times any of the values is zero.
bool all_finite(const float* values, int64_t count);

}  // namespace fastvision

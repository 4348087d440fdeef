// A sum over all images, cut into parts that threads compute and one adds in order at the end: the result is
// the same for every number of threads.
#pragma once

#include "core/simd.h"

namespace fastvision {

// How many parts of `floats` sums each, for `units` pieces of work. Their memory is bounded.
inline int64_t count_parts(int64_t floats, int64_t units) {
  constexpr int64_t kMaxParts = 16;
  constexpr int64_t kPartsBytes = 32 << 20;
  return std::clamp<int64_t>(kPartsBytes / (4 * floats), 1, std::min(kMaxParts, units));
}

// Adds sums [0, count), a multiple of kLanes, of the other parts to those of the first.
inline void add_parts(float* sums, int64_t count, int64_t parts, int64_t part_size) {
  for (int64_t part = 1; part < parts; ++part) {
    const float* other = sums + part * part_size;
    for (int64_t i = 0; i < count; i += kLanes) (Vec::loadu(sums + i) + Vec::loadu(other + i)).store(sums + i);
  }
}

}  // namespace fastvision

// Rows that are a power of two apart meet in the same sets of an L1 cache, and drive each other out where there are
// more of them than ways.
#pragma once

#include <cstdint>

namespace fastvision {

// `stride` in fp32 elements.
constexpr bool meet_in_cache_sets(int64_t stride) {
  constexpr int64_t kSets = 1024;
  return stride % kSets == 0;
}

// Elements, a cache line, that keep such rows apart.
constexpr int64_t kSetPadding = 16;

}  // namespace fastvision

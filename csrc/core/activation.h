// ReLU without a branch for each vector.
#pragma once

#include <limits>

namespace fastvision {

// What max_keeping_second takes as its first argument for ReLU, or for none.
inline float activation_floor(bool relu) {
  return relu ? 0.f : -std::numeric_limits<float>::infinity();
}

}  // namespace fastvision

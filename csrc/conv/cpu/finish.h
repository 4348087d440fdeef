// Activations that a kernel does not do in registers: on rows of its output, while they are in the L1 cache.
#pragma once

#include <cstdint>

#include "core/types.h"

namespace fastvision {

class Finish {
 public:
  Finish() = default;  // nothing is left to do
  Finish(DType dtype, Activation activation);

  bool is_needed() const { return run_; }

  // Elements that follow each other in the output. Of 16-bit dtypes they were rounded before, as stock's are.
  void operator()(void* elements, int64_t count) const {
    if (run_) run_(elements, count);
  }

 private:
  void (*run_)(void* elements, int64_t count) = nullptr;
};

}  // namespace fastvision

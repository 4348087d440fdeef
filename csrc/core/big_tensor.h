// Results too big for malloc's free lists.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastvision {

// at::empty whose big CPU results live on huge pages. glibc maps fresh memory for every block
// beyond 32 MiB, and the first touch of each 4 KiB page costs 1.6 us: a third of the time of a
// batch of 32 images. Smaller blocks are reused and would lose by it.
at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options, at::MemoryFormat format);

}  // namespace fastvision

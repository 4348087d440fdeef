// Memory too big for malloc's free lists.
#pragma once

#include <ATen/core/Tensor.h>

namespace fastvision {

// Asks for huge pages for CPU memory, if it is big. glibc maps fresh memory for every block beyond 32 MiB, and the
// first touch of each 4 KiB page costs 1.6 us: a third of the time of a batch of 32 images, and of kernels' working
// memory a fifth to a third of what the system takes in a training step. Smaller blocks are reused and would lose by
// it.
void wish_huge_pages(void* data, size_t bytes);

// at::empty whose big CPU results live on huge pages.
at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options, at::MemoryFormat format);

}  // namespace fastvision

// CPU memory for results and for kernels' work.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>

namespace fastvision {

// Blocks from 128 KiB on are kept when they are freed, for the next of about their size: glibc gives such memory back
// to the system, and the first touch of each 4 KiB page that it fetches again costs 1.6 to 2.5 us, 7 to 18 % of the
// time of a converted network at batch 1. Kept are at most max_cached_bytes(), none that was not asked for in a while,
// and all is given back by empty_cache().
c10::DataPtr allocate_block(size_t bytes);

// at::empty, whose CPU results lie in such blocks.
at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options, at::MemoryFormat format);

#pragma GCC visibility push(default)  // _C calls these

size_t cached_bytes();
size_t max_cached_bytes();
void set_max_cached_bytes(size_t bytes);
void empty_cache();

#pragma GCC visibility pop

}  // namespace fastvision

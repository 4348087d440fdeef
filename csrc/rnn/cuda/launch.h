// What the launchers share.
#pragma once

#include <algorithm>

#include "core/context.h"
#include "core/integers.h"
#include "rnn/cuda/gates.cuh"

namespace fastvision::rnn_cuda {

// Kernel(p) by enough threads for `count` elements.
template <auto Kernel, class Problem>
const char* launch_elements(int64_t count, Context& context, const Problem& p) {
  constexpr int64_t kMostBlocks = 1 << 16;  // the rest they do one after another
  if (count == 0) return nullptr;
  const int64_t blocks = std::min(ceil_div(count, kThreads), kMostBlocks);
  return gpu::launch<Kernel>(dim3(static_cast<unsigned>(blocks)), dim3(kThreads), context.stream(), p);
}

template <class T>
T* allocate(Context& context, int64_t elements) {
  return static_cast<T*>(context.allocate(static_cast<size_t>(elements) * sizeof(T)));
}

// `data` plus `elements` of the problem's type; null stays null.
template <class Element>
const void* advanced(const void* data, int64_t elements) {
  return data ? static_cast<const Element*>(data) + elements : nullptr;
}

}  // namespace fastvision::rnn_cuda

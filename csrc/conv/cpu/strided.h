#pragma once

#include "core/load.h"
#include "core/simd.h"

namespace fastvision {

// source[0], source[stride], ... in fp32. `readable` elements of the source may be read, also between them.
template <class T>
void copy_every(int64_t stride, const T* source, int64_t readable, int64_t count, float* target) {
  int64_t i = 0;
  if constexpr (std::is_same_v<T, float>) {
    for (; stride == 2 && i + kLanes <= count && 2 * (i + kLanes) <= readable; i += kLanes) {
      load_even_and_odd(source + 2 * i).first.store(target + i);
    }
    if (const int64_t rest = count - i; stride == 2 && rest > 1 && rest <= kLanes) {
      const int64_t n = 2 * rest - 1;
      const Vec left = load_as_float(source + 2 * i, n);
      const Vec right = load_as_float(source + 2 * i + kLanes, std::max<int64_t>(n - kLanes, 0));
      at::vec::deinterleave2(left, right).first.store(target + i, static_cast<int>(rest));
      return;
    }
  }
  for (; i < count; ++i) target[i] = static_cast<float>(source[i * stride]);
}

}  // namespace fastvision

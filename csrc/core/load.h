// Numbers of any kind into fp32 vectors, and vectors into numbers.
#pragma once

#include "core/simd.h"

namespace fastvision {

// The first n numbers, kLanes at most, zeros after them. Reads nothing beyond.
template <class T>
inline FASTVISION_INLINE Vec load_as_float(const T* source, int64_t n) {
  if constexpr (std::is_same_v<T, float>) {
    return n >= kLanes ? Vec::loadu(source) : load_first(source, n);
  } else {
    if (n < kLanes) {
      float lanes[kLanes]{};
      convert_row(source, lanes, n);
      return Vec::loadu(lanes);
    }
    Vec values;
    if constexpr (std::is_same_v<T, int8_t>) {
      values = load_int8_as_float(source);
    } else if constexpr (std::is_same_v<T, c10::BFloat16>) {
      at::vec::load_fp32_from_bf16(source, values);
    } else {
      at::vec::load_fp32_from_fp16(source, values);
    }
    return values;
  }
}

// The sum of each vector's lanes. `Count` is a multiple of four.
template <int Count>
inline FASTVISION_INLINE void sum_lanes(const Vec (&v)[Count], float (&sums)[Count]) {
  static_assert(Count % 4 == 0);
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  const auto eight = [&v](int i) FASTVISION_INLINE -> __m256 {
#if defined(CPU_CAPABILITY_AVX512)
    return _mm256_add_ps(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
#else
    return v[i];
#endif
  };
  unroll<Count / 4>([&](auto quarter) FASTVISION_INLINE {
    constexpr int i = 4 * quarter;
    const __m256 pairs =
        _mm256_hadd_ps(_mm256_hadd_ps(eight(i), eight(i + 1)), _mm256_hadd_ps(eight(i + 2), eight(i + 3)));
    _mm_storeu_ps(sums + i, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
  });
#else
  for (int i = 0; i < Count; ++i) {
    float lanes[kLanes];
    v[i].store(lanes);
    sums[i] = 0;
    for (const float lane : lanes) sums[i] += lane;
  }
#endif
}

}  // namespace fastvision

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

// The same for the vectors v(0), v(1) ... v(kLanes - 1): the sum of v(i) in lane i. Pairs of vectors are added half by
// half, quarter by quarter and so on, which is a third of the work of turning them round.
template <class Load>
inline FASTVISION_INLINE Vec sums_of_lanes(const Load& v) {
#if defined(CPU_CAPABILITY_AVX512)
  __m512 eight[8], four[4], two[2];
  unroll<8>([&](auto i) FASTVISION_INLINE {
    const __m512 a = v(i), b = v(i + 8);
    eight[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e));
  });
  unroll<4>([&](auto i) FASTVISION_INLINE {
    const __m512 a = eight[i], b = eight[i + 4], other = _mm512_mask_blend_ps(0xf0f0, b, a);
    four[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, a, b), _mm512_shuffle_f32x4(other, other, 0xb1));
  });
  unroll<2>([&](auto i) FASTVISION_INLINE {
    const __m512 a = four[i], b = four[i + 2];
    two[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
  });
  return _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, two[0], two[1]),
                       _mm512_permute_ps(_mm512_mask_blend_ps(0xaaaa, two[1], two[0]), 0xb1));
#elif defined(CPU_CAPABILITY_AVX2)
  __m256 four[4], two[2];
  unroll<4>([&](auto i) FASTVISION_INLINE {
    const __m256 a = v(i), b = v(i + 4);
    four[i] = _mm256_add_ps(_mm256_blend_ps(a, b, 0xf0), _mm256_permute2f128_ps(a, b, 0x21));
  });
  unroll<2>([&](auto i) FASTVISION_INLINE {
    const __m256 a = four[i], b = four[i + 2];
    two[i] = _mm256_add_ps(_mm256_blend_ps(a, b, 0xcc), _mm256_shuffle_ps(a, b, 0x4e));
  });
  return _mm256_add_ps(_mm256_blend_ps(two[0], two[1], 0xaa),
                       _mm256_permute_ps(_mm256_blend_ps(two[1], two[0], 0xaa), 0xb1));
#else
  Vec vectors[kLanes];
  for (int i = 0; i < kLanes; ++i) vectors[i] = v(i);
  float sums[kLanes];
  sum_lanes(vectors, sums);
  return Vec::loadu(sums);
#endif
}

}  // namespace fastvision

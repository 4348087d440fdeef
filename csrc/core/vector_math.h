// ScalarMath (core/scalar_math.h) of vectors: the same operations by the same names.
#pragma once

#include "core/scalar_math.h"
#include "core/simd.h"

namespace fastvision {

struct VectorMath {
  using Float = Vec;
  using Int = IntVec;
  using Mask = Vec;  // lanes of all ones or zeros

  // Rounded once where the instruction set can.
  static FASTVISION_INLINE Vec fma(const Vec& a, const Vec& b, const Vec& c) {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
    return at::vec::fmadd(a, b, c);
#else
    return a * b + c;
#endif
  }

  static FASTVISION_INLINE Vec sqrt(const Vec& x) { return x.sqrt(); }
  static FASTVISION_INLINE Vec floor(const Vec& x) { return x.floor(); }

#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  static FASTVISION_INLINE Vec greater(const Vec& a, const Vec& b) { return a > b; }
  static FASTVISION_INLINE Vec at_least(const Vec& a, const Vec& b) { return a >= b; }
  static FASTVISION_INLINE Vec select(const Vec& mask, const Vec& yes, const Vec& no) {
    return Vec::blendv(no, yes, mask);
  }
#else
  // (at::vec's own take one lane at a time.)
  static Vec greater(const Vec& a, const Vec& b) {
    return each<float>([](float x, float y) { return std::bit_cast<float>(-int32_t{x > y}); }, a, b);
  }
  static Vec at_least(const Vec& a, const Vec& b) {
    return each<float>([](float x, float y) { return std::bit_cast<float>(-int32_t{x >= y}); }, a, b);
  }
  static Vec select(const Vec& mask, const Vec& yes, const Vec& no) {
    return from_bits((bits(mask) & bits(yes)) | (~bits(mask) & bits(no)));
  }
#endif

#if defined(CPU_CAPABILITY_AVX512)
  static FASTVISION_INLINE Vec to_float(const IntVec& x) { return _mm512_cvtepi32_ps(x); }
  static FASTVISION_INLINE IntVec to_int(const Vec& x) { return _mm512_cvttps_epi32(x); }
  static FASTVISION_INLINE IntVec bits(const Vec& x) { return _mm512_castps_si512(x); }
  static FASTVISION_INLINE Vec from_bits(const IntVec& x) { return _mm512_castsi512_ps(x); }
  template <int n>
  static FASTVISION_INLINE IntVec shift_left(const IntVec& x) {
    return _mm512_slli_epi32(x, n);
  }
  template <int n>
  static FASTVISION_INLINE IntVec shift_right(const IntVec& x) {
    return _mm512_srli_epi32(x, n);
  }
  template <int n>
  static FASTVISION_INLINE IntVec shift_right_signed(const IntVec& x) {
    return _mm512_srai_epi32(x, n);
  }
  static FASTVISION_INLINE bool any(const Vec& mask) { return _mm512_movepi32_mask(_mm512_castps_si512(mask)); }
#elif defined(CPU_CAPABILITY_AVX2)
  static FASTVISION_INLINE Vec to_float(const IntVec& x) { return _mm256_cvtepi32_ps(x); }
  static FASTVISION_INLINE IntVec to_int(const Vec& x) { return _mm256_cvttps_epi32(x); }
  static FASTVISION_INLINE IntVec bits(const Vec& x) { return _mm256_castps_si256(x); }
  static FASTVISION_INLINE Vec from_bits(const IntVec& x) { return _mm256_castsi256_ps(x); }
  template <int n>
  static FASTVISION_INLINE IntVec shift_left(const IntVec& x) {
    return _mm256_slli_epi32(x, n);
  }
  template <int n>
  static FASTVISION_INLINE IntVec shift_right(const IntVec& x) {
    return _mm256_srli_epi32(x, n);
  }
  template <int n>
  static FASTVISION_INLINE IntVec shift_right_signed(const IntVec& x) {
    return _mm256_srai_epi32(x, n);
  }
  static FASTVISION_INLINE bool any(const Vec& mask) { return _mm256_movemask_ps(mask); }
#else
  static Vec to_float(const IntVec& x) { return each<float>(&ScalarMath::to_float, x); }
  static IntVec to_int(const Vec& x) { return each<int32_t>(&ScalarMath::to_int, x); }
  static IntVec bits(const Vec& x) { return each<int32_t>(&ScalarMath::bits, x); }
  static Vec from_bits(const IntVec& x) { return each<float>(&ScalarMath::from_bits, x); }
  template <int n>
  static IntVec shift_left(const IntVec& x) {
    return each<int32_t>(&ScalarMath::shift_left<n>, x);
  }
  template <int n>
  static IntVec shift_right(const IntVec& x) {
    return each<int32_t>(&ScalarMath::shift_right<n>, x);
  }
  template <int n>
  static IntVec shift_right_signed(const IntVec& x) {
    return each<int32_t>(&ScalarMath::shift_right_signed<n>, x);
  }
  static bool any(const Vec& mask) {
    const float* lanes = mask;
    int32_t found = 0;
    for (int64_t i = 0; i < kLanes; ++i) found |= ScalarMath::bits(lanes[i]);
    return found;
  }

 private:
  // f of each lane, in loops that compilers turn into vectors.
  template <class To, class F, class From, class... More>
  static FASTVISION_INLINE at::vec::Vectorized<To> each(const F& f, const From& x, const More&... more) {
    To to[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) to[i] = f(lane(x, i), lane(more, i)...);
    return at::vec::Vectorized<To>::loadu(to);
  }
  template <class T>
  static FASTVISION_INLINE T lane(const at::vec::Vectorized<T>& x, int64_t i) {
    return static_cast<const T*>(x)[i];
  }
#endif
};

// For the noise, which is the same everywhere: a fused multiply-add whatever it costs. No result may be as small as
// numbers that are not normal.
struct ExactVectorMath : VectorMath {
#if !defined(CPU_CAPABILITY_AVX512) && !defined(CPU_CAPABILITY_AVX2)
  // A sum that is rounded to double precision, and to fp32 again, is wrong only where the first result lies halfway
  // between two numbers of fp32.
  static FASTVISION_INLINE Vec fma(const Vec& a, const Vec& b, const Vec& c) {
    const float *x = a, *y = b, *z = c;
    float result[kLanes];
    int32_t halfway = 0;
    for (int64_t i = 0; i < kLanes; ++i) {
      const double sum = static_cast<double>(x[i]) * y[i] + z[i];
      halfway |= static_cast<int32_t>(std::bit_cast<uint64_t>(sum) & 0x1fffffff) == 0x10000000;
      result[i] = static_cast<float>(sum);
    }
    if (halfway) round_once(x, y, z, result);
    return Vec::loadu(result);
  }

 private:
  static __attribute__((noinline)) void round_once(const float* x, const float* y, const float* z, float* result) {
    for (int64_t i = 0; i < kLanes; ++i) result[i] = ScalarMath::fma_in_double(x[i], y[i], z[i]);
  }
#endif
};

}  // namespace fastvision

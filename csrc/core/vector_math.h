// ScalarMath (core/scalar_math.h) of vectors: the same operations by the same names, lane by lane the same bits.
#pragma once

#include "core/scalar_math.h"
#include "core/simd.h"

namespace fastvision {

struct VectorMath {
  using Float = Vec;
  using Int = IntVec;
  using Mask = Vec;  // lanes of all ones or zeros

  static FASTVISION_INLINE Vec fma(const Vec& a, const Vec& b, const Vec& c) {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
    return at::vec::fmadd(a, b, c);
#else
    float x[kLanes], y[kLanes], z[kLanes];
    a.store(x);
    b.store(y);
    c.store(z);
    for (int64_t i = 0; i < kLanes; ++i) z[i] = ScalarMath::fma_in_double(x[i], y[i], z[i]);
    return Vec::loadu(z);
#endif
  }

  static FASTVISION_INLINE Vec sqrt(const Vec& x) { return x.sqrt(); }
  static FASTVISION_INLINE Vec greater(const Vec& a, const Vec& b) { return a > b; }
  static FASTVISION_INLINE Vec select(const Vec& mask, const Vec& yes, const Vec& no) {
    return Vec::blendv(no, yes, mask);
  }

#if defined(CPU_CAPABILITY_AVX512)
  static FASTVISION_INLINE Vec to_float(const IntVec& x) { return _mm512_cvtepi32_ps(x); }
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
  static Vec to_float(const IntVec& x) {
    return each<float>(x, [](int32_t lane) { return ScalarMath::to_float(lane); });
  }
  static IntVec bits(const Vec& x) {
    return each<int32_t>(x, [](float lane) { return ScalarMath::bits(lane); });
  }
  static Vec from_bits(const IntVec& x) {
    return each<float>(x, [](int32_t lane) { return ScalarMath::from_bits(lane); });
  }
  template <int n>
  static IntVec shift_left(const IntVec& x) {
    return each<int32_t>(x, [](int32_t lane) { return ScalarMath::shift_left<n>(lane); });
  }
  template <int n>
  static IntVec shift_right(const IntVec& x) {
    return each<int32_t>(x, [](int32_t lane) { return ScalarMath::shift_right<n>(lane); });
  }
  template <int n>
  static IntVec shift_right_signed(const IntVec& x) {
    return each<int32_t>(x, [](int32_t lane) { return ScalarMath::shift_right_signed<n>(lane); });
  }
  static bool any(const Vec& mask) {
    int32_t lanes[kLanes], found = 0;
    bits(mask).store(lanes);
    for (const int32_t lane : lanes) found |= lane;
    return found;
  }

 private:
  template <class To, class From, class F>
  static FASTVISION_INLINE at::vec::Vectorized<To> each(const at::vec::Vectorized<From>& x, const F& f) {
    From from[kLanes];
    To to[kLanes];
    x.store(from);
    for (int64_t i = 0; i < kLanes; ++i) to[i] = f(from[i]);
    return at::vec::Vectorized<To>::loadu(to);
  }
#endif
};

}  // namespace fastvision

// What a matrix product multiplies and adds: fp32 numbers, or pairs of bf16 numbers, each pair in the place of a float.
#pragma once

#include <cstring>

#include "core/simd.h"

namespace fastvision {

struct Singles {
  static FASTVISION_INLINE Vec broadcast(const float* x) { return Vec(*x); }
  static FASTVISION_INLINE Vec multiply_add(const Vec& x, const Vec& w, const Vec& sum) {
    return at::vec::fmadd(x, w, sum);
  }
};

#if defined(CPU_CAPABILITY_AVX512)
// Sums stay in fp32. Numbers below 2^-126 count as zero.
struct Pairs {
  static FASTVISION_INLINE Vec broadcast(const float* x) {
    int32_t pair;
    std::memcpy(&pair, x, sizeof(pair));
    return _mm512_castsi512_ps(_mm512_set1_epi32(pair));
  }
  // By name: GCC's intrinsic would ask for a target that lambdas do not inherit, or for a library of its own.
  static FASTVISION_INLINE Vec multiply_add(const Vec& x, const Vec& w, const Vec& sum) {
    __m512 result = sum;
    asm("vdpbf16ps %2, %1, %0" : "+v"(result) : "v"(static_cast<__m512>(x)), "v"(static_cast<__m512>(w)));
    return result;
  }
};

inline bool processor_multiplies_pairs() {
  static const bool has = __builtin_cpu_supports("avx512bf16");
  return has;
}
#else
using Pairs = Singles;

inline bool processor_multiplies_pairs() {
  return false;
}
#endif

}  // namespace fastvision

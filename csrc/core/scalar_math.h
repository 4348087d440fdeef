// fp32 arithmetic of one number whose result is the same on every processor, by the names that core/vector_math.h has
// for vectors: what is written as a template over both is the same sequence of IEEE operations in a CPU kernel of any
// instruction set, in CUDA and in the emulator.
//
// No product in such a template may be added to anything but by fma: compilers fuse the two where they can.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/inline.h"

#if defined(__CUDACC__)
#define FASTVISION_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FASTVISION_HOST_DEVICE inline FASTVISION_INLINE
#endif

namespace fastvision {

struct ScalarMath {
  using Float = float;
  using Int = int32_t;
  using Mask = bool;

  // a b + c, rounded once.
  FASTVISION_HOST_DEVICE static float fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(a, b, c);
#elif defined(__FMA__) || defined(__FP_FAST_FMAF)
    return __builtin_fmaf(a, b, c);
#else
    return fma_in_double(a, b, c);
#endif
  }

  // The same without an instruction for it. The product is exact in double precision; a sum that is rounded to odd
  // there and then to fp32 is rounded correctly (Boldo and Melquiond, "Emulation of a FMA", 2008).
  static float fma_in_double(float a, float b, float c) {
    const double product = static_cast<double>(a) * b;
    const double sum = product + c;
    const double added = sum - product;
    const double error = (product - (sum - added)) + (c - added);
    const int64_t bits = std::bit_cast<int64_t>(sum);
    const int64_t towards = (error > 0) == (sum > 0) ? 1 : -1;
    const bool inexact = error < 0 || error > 0;  // not NaN
    return static_cast<float>(std::bit_cast<double>(bits + (inexact && !(bits & 1) ? towards : 0)));
  }

  FASTVISION_HOST_DEVICE static float sqrt(float x) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(x);
#else
    return __builtin_sqrtf(x);
#endif
  }

  FASTVISION_HOST_DEVICE static float floor(float x) {
#if defined(__CUDA_ARCH__)
    return ::floorf(x);
#else
    return __builtin_floorf(x);
#endif
  }

  FASTVISION_HOST_DEVICE static float to_float(int32_t x) { return static_cast<float>(x); }
  FASTVISION_HOST_DEVICE static int32_t to_int(float x) { return static_cast<int32_t>(x); }  // towards zero

  FASTVISION_HOST_DEVICE static int32_t bits(float x) {
#if defined(__CUDA_ARCH__)
    return __float_as_int(x);
#else
    return std::bit_cast<int32_t>(x);
#endif
  }
  FASTVISION_HOST_DEVICE static float from_bits(int32_t x) {
#if defined(__CUDA_ARCH__)
    return __int_as_float(x);
#else
    return std::bit_cast<float>(x);
#endif
  }

  template <int n>
  FASTVISION_HOST_DEVICE static int32_t shift_left(int32_t x) {
    return static_cast<int32_t>(static_cast<uint32_t>(x) << n);
  }
  template <int n>
  FASTVISION_HOST_DEVICE static int32_t shift_right(int32_t x) {  // zeros come in
    return static_cast<int32_t>(static_cast<uint32_t>(x) >> n);
  }
  template <int n>
  FASTVISION_HOST_DEVICE static int32_t shift_right_signed(int32_t x) {
    return x >> n;
  }

  FASTVISION_HOST_DEVICE static bool greater(float a, float b) { return a > b; }
  FASTVISION_HOST_DEVICE static bool at_least(float a, float b) { return a >= b; }
  FASTVISION_HOST_DEVICE static bool any(bool mask) { return mask; }
  FASTVISION_HOST_DEVICE static float select(bool mask, float yes, float no) { return mask ? yes : no; }
};

}  // namespace fastvision

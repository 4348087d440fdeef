// Conversion between fp32 and the 16-bit floating-point types, by one name in CUDA and in the emulator.
#pragma once

#include <type_traits>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "core/gpu_float16.h"
#endif

namespace fastvision::gpu {

__host__ __device__ inline float to_float(float value) {
  return value;
}
__host__ __device__ inline float to_float(__half value) {
  return __half2float(value);
}
__host__ __device__ inline float to_float(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

template <class T>
__host__ __device__ T from_float(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16(value);
  } else {
    return value;
  }
}

}  // namespace fastvision::gpu

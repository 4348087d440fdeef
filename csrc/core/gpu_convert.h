// The 16-bit floating-point types and their conversion to and from fp32, by one name in CUDA and in the emulator.
#pragma once

#include <type_traits>

#include "core/types.h"

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

// Calls run with a value of the type of a problem's elements.
template <class Run>
auto with_element(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::f16:
      return run(__half{});
    case DType::bf16:
      return run(__nv_bfloat16{});
    default:
      return run(float{});
  }
}

}  // namespace fastvision::gpu

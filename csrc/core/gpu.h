// One kernel source, two executors. Compiled by nvcc this is CUDA. Compiled by a C++ compiler every
// CUDA thread is a fiber on the CPU, so that kernels and their launchers really run, under
// AddressSanitizer and ThreadSanitizer if wanted, on a machine without a GPU.
//
// Kernels are CUDA C++, with one difference: shared memory is declared by GPU_SHARED(Type, name).
// The emulator fills it with NaN and stops the program, with kernel, block and line, at divergent
// barriers, bad warp masks, misuse of wmma, too much shared memory and bad launches.
// FASTVISION_EMULATOR_SCHEDULE=forward|reverse|random is the order in which threads take turns.
#pragma once

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>

#include "core/gpu_convert.h"

#define GPU_SHARED(Type, name) __shared__ Type name

// False while code for a GPU is compiled whose tensor cores lack bf16 and tf32.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define GPU_HAS_BF16_AND_TF32 1
#else
#define GPU_HAS_BF16_AND_TF32 0
#endif

#else

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#include "core/gpu_convert.h"
#include "core/gpu_scheduler.h"
#include "core/gpu_warp.h"
#include "core/gpu_wmma.h"

#define GPU_SHARED(Type, name)      \
  static const char name##_key = 0; \
  Type& name = *static_cast<Type*>(fastvision::gpu::emulator.shared_variable(&name##_key, sizeof(Type), alignof(Type)))
#define GPU_HAS_BF16_AND_TF32 1

#endif

namespace fastvision::gpu {

#if GPU_HAS_BF16_AND_TF32
// The nearest number with 10 bits of mantissa, which tensor cores take for an fp32 factor.
__device__ inline float round_to_tf32(float value) {
  return nvcuda::wmma::__float_to_tf32(value);
}
#endif

// Runs Kernel(arguments...) for every thread of `grid` blocks of `block` threads, on a cudaStream_t.
// Returns null, or what is wrong with the launch.
template <auto Kernel, class... Arguments>
const char* launch(dim3 grid, dim3 block, void* stream, const Arguments&... arguments) {
#if defined(__CUDACC__)
  Kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
#else
  (void)stream;
  emulator.launch(__PRETTY_FUNCTION__, grid, block, [&] { Kernel(arguments...); });
  return nullptr;
#endif
}

// What the launchers have to know of the current device. An emulated one can do everything.
struct Device {
  int compute_capability;  // 10 * major + minor
  int multiprocessors;
};

inline Device current_device() {
#if defined(__CUDACC__)
  int device = 0, major = 0, minor = 0, multiprocessors = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  return {10 * major + minor, multiprocessors};
#else
  return {90, 2};
#endif
}

}  // namespace fastvision::gpu

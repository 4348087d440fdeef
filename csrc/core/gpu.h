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

#define GPU_SHARED(Type, name) __shared__ Type name
#define GPU_UNROLL _Pragma("unroll")

// Device code for a GPU too old for a tensor-core type is empty; the launcher never picks it there.
#define GPU_HAS_WMMA_BF16_TF32 (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800)

#else

#include "core/gpu_float16.h"
#include "core/gpu_scheduler.h"
#include "core/gpu_warp.h"
#include "core/gpu_wmma.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define GPU_SHARED(Type, name)      \
  static const char name##_key = 0; \
  Type& name = *static_cast<Type*>(fastvision::gpu::emulator.shared_variable(&name##_key, sizeof(Type), alignof(Type)))
#define GPU_UNROLL
#define GPU_HAS_WMMA_BF16_TF32 1

#endif

namespace fastvision::gpu {

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

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

#include <cassert>

#include "core/gpu_convert.h"

#define GPU_SHARED(Type, name) __shared__ Type name
#define GPU_PLACE_PARAMETERS

// What a kernel asks of the numbers that it is given. As in stock PyTorch a failed assertion of the device ends all of
// the process' work on it; in the emulator the launch returns the message.
#define GPU_REQUIRE(condition, message) assert((condition) && (message))

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

inline int min(int a, int b) {
  return a < b ? a : b;
}

#include "core/gpu_convert.h"
#include "core/gpu_scheduler.h"
#include "core/gpu_warp.h"
#include "core/gpu_wmma.h"

#define GPU_SHARED(Type, name)      \
  static const char name##_key = 0; \
  Type& name = *static_cast<Type*>(fastvision::gpu::emulator.shared_variable(&name##_key, sizeof(Type), alignof(Type)))
#define GPU_REQUIRE(condition, message) ((condition) ? void() : fastvision::gpu::emulator.complain(message))
#define GPU_HAS_BF16_AND_TF32 1
// The place of the caller: default arguments are evaluated where the function is called.
#define GPU_PLACE_PARAMETERS , const char *file = __builtin_FILE(), int line = __builtin_LINE()

#endif

#include <cstdint>
#include <type_traits>

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
  return emulator.launch(__PRETTY_FUNCTION__, grid, block, false, [&] { Kernel(arguments...); });
#endif
}

// The same with all blocks running at once, so that they may wait for each other: at most resident_blocks<Kernel>.
template <auto Kernel, class... Arguments>
const char* launch_together(dim3 grid, dim3 block, void* stream, const Arguments&... arguments) {
#if defined(__CUDACC__)
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  const cudaError_t error = cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(Kernel), grid, block, pointers, 0,
                                                        static_cast<cudaStream_t>(stream));
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
#else
  (void)stream;
  return emulator.launch(__PRETTY_FUNCTION__, grid, block, true, [&] { Kernel(arguments...); });
#endif
}

// How many blocks of `threads` threads the current device runs at once.
template <auto Kernel>
int64_t resident_blocks(int threads) {
#if defined(__CUDACC__)
  int device = 0, cooperative = 0, multiprocessors = 0, blocks = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, Kernel, threads, 0);
  return cooperative ? int64_t{multiprocessors} * blocks : 0;
#else
  (void)threads;
  return Emulator::kMaxResidentBlocks;
#endif
}

// Waits for all threads of all blocks of a launch_together; what they wrote before is seen after, by loads that pass by
// the first cache (load_shared_by_grid). `arrivals` is zero when the kernel starts, `round` counts from 1.
__device__ inline void synchronize_grid(unsigned* arrivals, unsigned round GPU_PLACE_PARAMETERS) {
#if defined(__CUDACC__)
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrivals, 1u);
    const unsigned expected = round * gridDim.x * gridDim.y;
    while (*static_cast<volatile unsigned*>(arrivals) < expected) {
    }
    __threadfence();
  }
  __syncthreads();
#else
  (void)arrivals;
  (void)round;
  emulator.synchronize_grid({file, line});
#endif
}

// A load of what other blocks may have written since this one began.
template <class T>
__device__ __forceinline__ T load_shared_by_grid(const T* p) {
#if defined(__CUDACC__)
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  using Bits = std::conditional_t<
      sizeof(T) == 2, unsigned short,
      std::conditional_t<sizeof(T) == 4, unsigned, std::conditional_t<sizeof(T) == 8, uint2, uint4>>>;
  const Bits bits = __ldcg(reinterpret_cast<const Bits*>(p));
  return *reinterpret_cast<const T*>(&bits);
#else
  return *p;
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

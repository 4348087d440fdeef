// The CUDA kernel library. Compiled by nvcc it is _cuda.so; compiled as C++ it is _emulated.so, which
// executes the same kernels on the CPU (core/gpu.h).
#include "augment/cuda/kernels.h"
#include "conv/cuda/kernels.h"
#include "core/kernel_library.h"
#include "rnn/cuda/kernels.h"
#include "vae/cuda/kernels.h"

#if defined(__CUDACC__)
#define LIBRARY_NAME "cuda"
#else
#define LIBRARY_NAME "emulated"
#endif

const fastvision::KernelLibrary* fastvision_kernel_library() {
  static const fastvision::KernelLibrary library{.interface_version = fastvision::KernelLibrary::kInterfaceVersion,
                                                 .name = LIBRARY_NAME,
                                                 .conv = &fastvision::cuda_conv_kernels,
                                                 .rnn = &fastvision::cuda_rnn_kernels,
                                                 .vae = &fastvision::cuda_vae_kernels,
                                                 .augment = &fastvision::cuda_augment_kernels};
  return &library;
}

// The vae kernels of CUDA for tests/native/vae_kernels.cpp, as a kernel library of nothing else.
#include "core/kernel_library.h"
#include "vae/cuda/kernels.h"

const fastvision::KernelLibrary* fastvision_kernel_library() {
  static const fastvision::KernelLibrary library{.interface_version = fastvision::KernelLibrary::kInterfaceVersion,
                                                 .name = "emulated",
                                                 .vae = &fastvision::cuda_vae_kernels};
  return &library;
}

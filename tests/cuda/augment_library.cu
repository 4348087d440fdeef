// The augment kernels of CUDA for tests/native/augment_kernels.cpp, as a kernel library of nothing else.
#include "augment/cuda/kernels.h"
#include "core/kernel_library.h"

const fastvision::KernelLibrary* fastvision_kernel_library() {
  static const fastvision::KernelLibrary library{.interface_version = fastvision::KernelLibrary::kInterfaceVersion,
                                                 .name = "emulated",
                                                 .augment = &fastvision::cuda_augment_kernels};
  return &library;
}

// The rnn kernels of CUDA for tests/native/rnn_kernels.cpp, as a kernel library of nothing else.
#include "core/kernel_library.h"
#include "rnn/cuda/kernels.h"

const fastvision::KernelLibrary* fastvision_kernel_library() {
  static const fastvision::KernelLibrary library{.interface_version = fastvision::KernelLibrary::kInterfaceVersion,
                                                 .name = "emulated",
                                                 .rnn = &fastvision::cuda_rnn_kernels};
  return &library;
}

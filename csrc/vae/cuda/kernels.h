// The vae kernels for CUDA, or, in the emulated library, the same executed on the CPU.
#pragma once

#include "vae/kernels.h"

namespace fastvision {

extern const VaeKernels cuda_vae_kernels;

}  // namespace fastvision

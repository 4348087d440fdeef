#pragma once

#include "vae/kernels.h"

namespace fastvision {

// The vae kernels of this instruction set.
const VaeKernels* vae_cpu_kernels();

}  // namespace fastvision

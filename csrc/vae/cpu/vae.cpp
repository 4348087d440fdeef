#include "vae/cpu/vae.h"

namespace fastvision {

const VaeKernels* vae_cpu_kernels() {
  return nullptr;
}

}  // namespace fastvision

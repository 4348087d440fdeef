#include "vae/cpu/vae.h"

#include "vae/cpu/elbo.h"
#include "vae/cpu/sample.h"

namespace fastvision {

const VaeKernels* vae_cpu_kernels() {
  static const VaeKernels kernels{&vae_standard_normal, &vae_sample_forward, &vae_sample_backward, &vae_elbo_forward,
                                  &vae_elbo_backward};
  return &kernels;
}

}  // namespace fastvision

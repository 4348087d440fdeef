// The vae family's kernel table for CUDA.
#include "vae/cuda/elbo.h"
#include "vae/cuda/kernels.h"
#include "vae/cuda/sample.h"

namespace fastvision {

const VaeKernels cuda_vae_kernels{&vae_cuda::standard_normal, &vae_cuda::sample_forward, &vae_cuda::sample_backward,
                                  &vae_cuda::elbo_forward, &vae_cuda::elbo_backward};

}  // namespace fastvision

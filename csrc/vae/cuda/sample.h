#pragma once

#include "vae/kernels.h"

namespace fastvision::vae_cuda {

const char* standard_normal(int64_t elements, const int64_t* state, float* noise, Context& context);
const char* sample_forward(const Reparameterization& p, const ReparameterizeForward& arrays, Context& context);
const char* sample_backward(const Reparameterization& p, const ReparameterizeBackward& arrays, Context& context);

}  // namespace fastvision::vae_cuda

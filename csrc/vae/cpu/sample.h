#pragma once

#include "vae/kernels.h"

namespace fastvision {

const char* vae_standard_normal(int64_t elements, const int64_t* state, float* noise, Context& context);
const char* vae_sample_forward(const Reparameterization& p, const ReparameterizeForward& arrays, Context& context);
const char* vae_sample_backward(const Reparameterization& p, const ReparameterizeBackward& arrays, Context& context);

}  // namespace fastvision

#pragma once

#include "vae/kernels.h"

namespace fastvision::vae_cuda {

const char* elbo_forward(const ElboLoss& p, const ElboLossForward& arrays, Context& context);
const char* elbo_backward(const ElboLoss& p, const ElboLossBackward& arrays, Context& context);

}  // namespace fastvision::vae_cuda

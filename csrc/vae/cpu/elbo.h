#pragma once

#include "vae/kernels.h"

namespace fastvision {

const char* vae_elbo_forward(const ElboLoss& p, const ElboLossForward& arrays, Context& context);
const char* vae_elbo_backward(const ElboLoss& p, const ElboLossBackward& arrays, Context& context);

}  // namespace fastvision

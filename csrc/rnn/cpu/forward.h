#pragma once

#include "rnn/kernels.h"

namespace fastvision {

const char* rnn_forward(const RnnLayer& problem, const RnnForward& arrays, Context& context);

}  // namespace fastvision

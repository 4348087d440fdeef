#pragma once

#include "rnn/kernels.h"

namespace fastvision {

const char* rnn_backward(const RnnLayer& problem, const RnnBackward& arrays, Context& context);

}  // namespace fastvision

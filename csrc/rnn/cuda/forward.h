#pragma once

#include "core/context.h"
#include "rnn/kernels.h"

namespace fastvision::rnn_cuda {

template <class Element>
const char* forward(const RnnLayer& p, const RnnForward& arrays, Context& context);

}  // namespace fastvision::rnn_cuda

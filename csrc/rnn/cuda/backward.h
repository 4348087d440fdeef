#pragma once

#include "core/context.h"
#include "rnn/kernels.h"

namespace fastvision::rnn_cuda {

template <class Element>
const char* backward(const RnnLayer& p, const RnnBackward& arrays, Context& context);

}  // namespace fastvision::rnn_cuda

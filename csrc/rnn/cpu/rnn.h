#pragma once

#include "rnn/kernels.h"

namespace fastvision {

// The rnn kernels of this instruction set.
const RnnKernels* rnn_cpu_kernels();

}  // namespace fastvision

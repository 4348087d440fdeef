// The rnn kernels for CUDA, or, in the emulated library, the same executed on the CPU.
#pragma once

#include "rnn/kernels.h"

namespace fastvision {

extern const RnnKernels cuda_rnn_kernels;

}  // namespace fastvision

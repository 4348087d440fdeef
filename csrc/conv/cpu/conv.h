// The conv family's kernels for CPUs, compiled once per instruction set.
#pragma once

#include "conv/kernels.h"

namespace fastvision {

const ConvKernels* conv_cpu_kernels();

}  // namespace fastvision

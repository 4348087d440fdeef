#pragma once

#include "pool/kernels.h"

namespace fastvision {

// The pool kernels of this instruction set.
const PoolKernels* pool_cpu_kernels();

}  // namespace fastvision

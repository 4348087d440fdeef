// What this machine can do at best: the roofline that benchmarks measure kernels against.
#pragma once

#include <cstdint>

namespace fastvision {

// Measured on the calling thread with the library's own instruction set.
struct MachineKernels {
  // fp32 multiply-adds from registers for about `seconds`: FLOP/s, two per multiply-add.
  double (*fma_peak)(double seconds);

  // Reading a buffer of `bytes` (raised to a few hundred at least) again and again for about
  // `seconds`: bytes/s. The size says which level of the memory hierarchy is measured.
  double (*read_bandwidth)(int64_t bytes, double seconds);
};

const MachineKernels* machine_kernel_table();

}  // namespace fastvision

// The face of a kernel library: one shared object per instruction set, and one for CUDA.
// libfastvision opens it with dlopen and takes the tables of functions from it.
#pragma once

namespace fastvision {

struct AugmentKernels;
struct ConvKernels;
struct LinearKernels;
struct MachineKernels;
struct PoolKernels;
struct RnnKernels;
struct VaeKernels;

struct KernelLibrary {
  static constexpr int kInterfaceVersion = 10;  // raise when a table or a struct in it changes
  int interface_version;
  const char* name;  // "default", "avx2", "avx512", "cuda", "emulated"
  // Null: the machine's peaks can't be measured, a family's references run.
  const MachineKernels* machine = nullptr;
  const ConvKernels* conv = nullptr;
  const RnnKernels* rnn = nullptr;
  const VaeKernels* vae = nullptr;
  const AugmentKernels* augment = nullptr;
  const LinearKernels* linear = nullptr;
  const PoolKernels* pool = nullptr;
};

}  // namespace fastvision

extern "C" __attribute__((visibility("default"))) const fastvision::KernelLibrary* fastvision_kernel_library();

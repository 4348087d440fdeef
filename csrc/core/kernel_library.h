// The face of a kernel library: one shared object per instruction set, and one for CUDA.
// libfastvision opens it with dlopen and takes the tables of functions from it.
#pragma once

namespace fastvision {

struct AugmentKernels;
struct ConvKernels;
struct LinearKernels;
struct MachineKernels;
struct RnnKernels;
struct VaeKernels;

struct KernelLibrary {
  static constexpr int kInterfaceVersion = 7;  // raise when a table or a struct in it changes
  int interface_version;
  const char* name;               // "default", "avx2", "avx512", "cuda", "emulated"
  const MachineKernels* machine;  // null where the machine's peaks can't be measured
  const ConvKernels* conv;
  const RnnKernels* rnn;          // null: the family's references run
  const VaeKernels* vae;          // the same
  const AugmentKernels* augment;  // the same
  const LinearKernels* linear;    // the same
};

}  // namespace fastvision

extern "C" __attribute__((visibility("default"))) const fastvision::KernelLibrary* fastvision_kernel_library();

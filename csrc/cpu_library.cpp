// The tables of one CPU kernel library. Compiled, as all of */cpu/, once per instruction set.
#include "augment/cpu/augment.h"
#include "conv/cpu/conv.h"
#include "core/kernel_library.h"
#include "linear/cpu/linear.h"
#include "machine/machine.h"
#include "pool/cpu/pool.h"
#include "rnn/cpu/rnn.h"
#include "vae/cpu/vae.h"

namespace {

// CPU_CAPABILITY is AVX512, AVX2 or DEFAULT; users write it in lower case.
constexpr const char* kName =
#if defined(CPU_CAPABILITY_AVX512)
    "avx512";
#elif defined(CPU_CAPABILITY_AVX2)
    "avx2";
#else
    "default";
#endif

}  // namespace

extern "C" const fastvision::KernelLibrary* fastvision_kernel_library() {
  static const fastvision::KernelLibrary library{fastvision::KernelLibrary::kInterfaceVersion,
                                                 kName,
                                                 fastvision::machine_kernel_table(),
                                                 fastvision::conv_cpu_kernels(),
                                                 fastvision::rnn_cpu_kernels(),
                                                 fastvision::vae_cpu_kernels(),
                                                 fastvision::augment_cpu_kernels(),
                                                 fastvision::linear_cpu_kernels(),
                                                 fastvision::pool_cpu_kernels()};
  return &library;
}

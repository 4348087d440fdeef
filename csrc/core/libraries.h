// The kernel libraries this process can run, and which of them is in use.
#pragma once

#include <string>
#include <vector>

#include "core/kernel_library.h"

namespace fastvision {

#pragma GCC visibility push(default)  // _C calls these

// The library that CPU tensors run on. Chosen when libfastvision loads: the widest
// instruction set this processor has, or what FASTVISION_CPU_CAPABILITY names.
const KernelLibrary& cpu_library();

// Null where torch has no CUDA or the package was built without it.
const KernelLibrary* cuda_library();

std::vector<std::string> available_cpu_capabilities();
void set_cpu_capability(const std::string& name);

// False makes every operator run its reference (fastvision.backends.enabled).
bool kernels_enabled();
void set_kernels_enabled(bool enabled);

// Whether CPU kernels may use Winograd's algorithm (fastvision.backends.cpu.allow_winograd).
bool winograd_allowed();
void set_winograd_allowed(bool allowed);

#pragma GCC visibility pop

}  // namespace fastvision

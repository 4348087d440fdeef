// From tensors to kernels: which library serves a device, and which of its number formats a dtype is.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <optional>

#include "core/libraries.h"
#include "core/types.h"

namespace fastvision {

// The table that `member` points to, or null where the device has none.
template <class Kernels>
const Kernels* kernels_of(c10::Device device, const Kernels* KernelLibrary::* member) {
  if (device.is_cpu()) return cpu_library().*member;
  if (device.is_cuda() && cuda_library()) return cuda_library()->*member;
  return nullptr;
}

inline std::optional<DType> kernel_dtype(c10::ScalarType type) {
  switch (type) {
    case c10::kFloat:
      return DType::f32;
    case c10::kBFloat16:
      return DType::bf16;
    case c10::kHalf:
      return DType::f16;
    default:
      return std::nullopt;
  }
}

}  // namespace fastvision

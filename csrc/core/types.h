// Types that every operator family shares. No torch types: kernels compile,
// run under sanitizers and can be read without torch.
#pragma once

#include <cstdint>

namespace fastvision {

enum class DType : uint8_t { f32, bf16, f16 };
enum class Activation : uint8_t { none, relu, relu6, silu, hardswish };

constexpr int64_t size_of(DType dtype) {
  return dtype == DType::f32 ? 4 : 2;
}

// Strides of an image tensor in elements, by logical dimension (batch, channel, row, column).
// Contiguous means w == 1 (or c == 1 with one channel), channels_last means c == 1.
struct ImageStrides {
  int64_t n, c, h, w;
};

}  // namespace fastvision

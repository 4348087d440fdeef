// CUDA's 16-bit floating-point types for the GPU emulator: storage and conversion, no arithmetic.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

struct __half {
  _Float16 value;
};

inline float __half2float(__half h) {
  return static_cast<float>(h.value);
}
inline __half __float2half(float f) {
  return {static_cast<_Float16>(f)};
}

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 b) {
  return std::bit_cast<float>(uint32_t{b.bits} << 16);
}

inline __nv_bfloat16 __float2bfloat16(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  if (std::isnan(f)) return {static_cast<uint16_t>(bits >> 16 | 0x40)};  // quiet, whatever the payload
  const uint32_t half_unit_to_even = 0x7fff + (bits >> 16 & 1);
  return {static_cast<uint16_t>((bits + half_unit_to_even) >> 16)};
}

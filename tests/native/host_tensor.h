// Tensors of the kernels' types in memory of exactly their size.
#pragma once

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/gpu_float16.h"
#include "core/types.h"

namespace fastvision {

class HostTensor {
 public:
  // Full of NaN, at an address that is a multiple of the element's size and of nothing more, all that torch promises,
  // or of 16, which is usual.
  HostTensor(DType dtype, int64_t elements, bool aligned = false)
      : dtype_(dtype),
        elements_(elements),
        start_(aligned ? 0 : size_of(dtype)),
        block_(static_cast<char*>(std::malloc(bytes() + start_))) {
    std::memset(block_, 0xff, bytes() + start_);
  }
  ~HostTensor() { std::free(block_); }
  HostTensor(const HostTensor&) = delete;
  HostTensor& operator=(const HostTensor&) = delete;

  void* data() { return address(0); }
  int64_t elements() const { return elements_; }
  int64_t bytes() const { return elements_ * size_of(dtype_); }

  double at(int64_t i) const {
    switch (dtype_) {
      case DType::bf16:
        return __bfloat162float(element<__nv_bfloat16>(i));
      case DType::f16:
        return __half2float(element<__half>(i));
      default:
        return element<float>(i);
    }
  }

  void set(int64_t i, double value) {
    const float rounded = static_cast<float>(value);
    switch (dtype_) {
      case DType::bf16:
        return set_element(i, __float2bfloat16(rounded));
      case DType::f16:
        return set_element(i, __float2half(rounded));
      default:
        return set_element(i, rounded);
    }
  }

  bool has_same_bits(const HostTensor& other) const {
    return bytes() == other.bytes() && std::memcmp(address(0), other.address(0), bytes()) == 0;
  }

 private:
  char* address(int64_t i) const { return block_ + start_ + i * size_of(dtype_); }
  template <class T>
  T element(int64_t i) const {
    T value;
    std::memcpy(&value, address(i), sizeof value);
    return value;
  }
  template <class T>
  void set_element(int64_t i, T value) {
    std::memcpy(address(i), &value, sizeof value);
  }

  DType dtype_;
  int64_t elements_, start_;
  char* block_;
};

// Where each element of a (batch, channel, row, column) tensor lies.
inline std::vector<int64_t> places(const ImageStrides& s, int64_t batch, int64_t channels, int64_t height,
                                   int64_t width) {
  std::vector<int64_t> result;
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) result.push_back(n * s.n + c * s.c + y * s.h + x * s.w);
  return result;
}

inline ImageStrides dense_strides(bool channels_last, int64_t channels, int64_t height, int64_t width) {
  if (channels_last) return {channels * height * width, 1, channels * width, channels};
  return {channels * height * width, height * width, width, 1};
}

}  // namespace fastvision

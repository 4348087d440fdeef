// The products of Winograd's algorithm: for one evaluation point, tiles x channels times channels x output channels.
#pragma once

#include <array>

#include "core/simd.h"

namespace fastvision::winograd {

// Tiles in registers at once. Zen 5 with AVX-512: 12 x 2 vectors are 24 FMA against 14 loads; AVX2 has half the
// registers.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kMaxTileRows = 12;
#elif defined(CPU_CAPABILITY_AVX2)
constexpr int kMaxTileRows = 6;
#else
constexpr int kMaxTileRows = 2;
#endif

// Products added in a row into one register. Error in multiples of the direct kernel's with 128 channels: 4.8 with 128
// in a row, 2.9 with 32, 2.6 with 16, which costs 5 % of the time. Stock's own error is larger without AVX-512.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int64_t kMaxChain = 16;
#else
constexpr int64_t kMaxChain = 32;
#endif

struct Product {
  const float* inputs;  // [tile][channel]
  int64_t input_stride;
  const float* weights;  // [channel][vector]
  int64_t channels;
  float* sums;  // [tile][vector]
};

template <int Tiles, int Vectors>
inline FASTVISION_INLINE void multiply_chain(const float* inputs, int64_t input_stride, const float* weights,
                                             int64_t channels, bool add, float* target) {
  Vec sum[Tiles][Vectors];
  unroll<Tiles * Vectors>([&](auto i) FASTVISION_INLINE { sum[i / Vectors][i % Vectors] = Vec(0.f); });
  for (int64_t c = 0; c < channels; ++c, weights += Vectors * kLanes) {
    Vec w[Vectors];
    unroll<Vectors>([&](auto v) FASTVISION_INLINE { w[v] = Vec::loadu(weights + v * kLanes); });
    unroll<Tiles>([&](auto tile) FASTVISION_INLINE {
      const Vec x(inputs[tile * input_stride + c]);
      unroll<Vectors>([&](auto v) FASTVISION_INLINE { sum[tile][v] = at::vec::fmadd(x, w[v], sum[tile][v]); });
    });
  }
  if (add) {
    unroll<Tiles * Vectors>([&](auto i) FASTVISION_INLINE {
      (Vec::loadu(target + i * kLanes) + sum[i / Vectors][i % Vectors]).store(target + i * kLanes);
    });
  } else {
    unroll<Tiles * Vectors>([&](auto i)
                                FASTVISION_INLINE { sum[i / Vectors][i % Vectors].store(target + i * kLanes); });
  }
}

// `groups` times `Tiles` tiles.
template <int Tiles, int Vectors>
__attribute__((noinline)) void multiply(const Product& product, int64_t groups) {
  const float* inputs = product.inputs;
  float* sums = product.sums;
  const int64_t input_stride = product.input_stride, channels = product.channels;
  for (int64_t i = 0; i < groups; ++i, inputs += Tiles * input_stride, sums += Tiles * Vectors * kLanes) {
    for (int64_t first = 0; first < channels; first += kMaxChain) {
      multiply_chain<Tiles, Vectors>(inputs + first, input_stride, product.weights + first * Vectors * kLanes,
                                     std::min(kMaxChain, channels - first), first > 0, sums);
    }
  }
}

template <int Vectors, int... Tiles>
constexpr std::array<void (*)(const Product&, int64_t), kMaxTileRows> multiply_by_tiles(
    std::integer_sequence<int, Tiles...>) {
  return {&multiply<Tiles + 1, Vectors>...};
}

// Any number of tiles: groups of two sizes, as equal as can be.
template <int Vectors>
void multiply_tiles(const Product& product, int64_t tiles) {
  static constexpr auto kernels = multiply_by_tiles<Vectors>(std::make_integer_sequence<int, kMaxTileRows>());
  const int64_t groups = (tiles + kMaxTileRows - 1) / kMaxTileRows;
  const int64_t size = tiles / groups, larger = tiles % groups;
  if (larger) kernels[size](product, larger);
  Product rest = product;
  rest.inputs += larger * (size + 1) * product.input_stride;
  rest.sums += larger * (size + 1) * Vectors * kLanes;
  kernels[size - 1](rest, groups - larger);
}

}  // namespace fastvision::winograd

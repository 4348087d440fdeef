// The products of Winograd's algorithm: for one evaluation point, tiles x channels times channels x output channels.
#pragma once

#include <array>

#include "core/simd.h"

namespace fastvision::winograd {

// Tiles in registers at once. Zen 5 with AVX-512: 12 x 2 vectors are 24 FMA against 14 loads; AVX2 has half the registers.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kMaxTileRows = 12;
#elif defined(CPU_CAPABILITY_AVX2)
constexpr int kMaxTileRows = 6;
#else
constexpr int kMaxTileRows = 2;
#endif

// Products added in a row into one register: short sums keep the rounding error small.
constexpr int64_t kMaxChain = 32;

struct Product {
  const float* inputs;  // [tile][channel]
  int64_t input_stride;
  const float* weights;  // [channel][vector]
  int64_t channels;
  float* sums;  // [tile][vector]
};

template <int Tiles, int Vectors>
__attribute__((noinline)) void multiply(const Product& p) {
  for (int64_t first = 0; first < p.channels; first += kMaxChain) {
    Vec sum[Tiles][Vectors];
    unroll<Tiles * Vectors>([&](auto i) FASTVISION_INLINE { sum[i / Vectors][i % Vectors] = Vec(0.f); });
    const int64_t end = std::min(first + kMaxChain, p.channels);
    const float* weights = p.weights + first * Vectors * kLanes;
    for (int64_t c = first; c < end; ++c, weights += Vectors * kLanes) {
      Vec w[Vectors];
      unroll<Vectors>([&](auto v) FASTVISION_INLINE { w[v] = Vec::loadu(weights + v * kLanes); });
      unroll<Tiles>([&](auto tile) FASTVISION_INLINE {
        const Vec x(p.inputs[tile * p.input_stride + c]);
        unroll<Vectors>([&](auto v) FASTVISION_INLINE { sum[tile][v] = at::vec::fmadd(x, w[v], sum[tile][v]); });
      });
    }
    unroll<Tiles * Vectors>([&](auto i) FASTVISION_INLINE {
      float* target = p.sums + i * kLanes;
      const Vec part = sum[i / Vectors][i % Vectors];
      (first ? Vec::loadu(target) + part : part).store(target);
    });
  }
}

template <int Vectors, int... Tiles>
constexpr std::array<void (*)(const Product&), kMaxTileRows> multiply_by_tiles(std::integer_sequence<int, Tiles...>) {
  return {&multiply<Tiles + 1, Vectors>...};
}

// Any number of tiles.
template <int Vectors>
void multiply_tiles(Product product, int64_t tiles) {
  static constexpr auto kernels = multiply_by_tiles<Vectors>(std::make_integer_sequence<int, kMaxTileRows>());
  const int64_t count = (tiles + kMaxTileRows - 1) / kMaxTileRows;
  const Product all = product;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = tiles * i / count, end = tiles * (i + 1) / count;
    product.inputs = all.inputs + begin * all.input_stride;
    product.sums = all.sums + begin * Vectors * kLanes;
    kernels[end - begin - 1](product);
  }
}

}  // namespace fastvision::winograd

// The matrix products of one step of many rows, with the weights as they are: rows of the batch lie in the lanes and
// each weight is broadcast. Nothing is packed but the rows, of which there are few.
#pragma once

#include <array>
#include <bit>

#include "rnn/cpu/products.h"

namespace fastvision {

// `count` rows of `depth` elements into [k][width], zeros in the lanes beyond the last row.
inline void rows_to_lanes(const float* rows, int64_t stride, int64_t count, int64_t depth, int64_t width,
                          float* panel) {
  if (width > count) std::fill_n(panel, depth * width, 0.f);
  transpose(rows, stride, count, depth, panel, width);
}

// Where the sums of a unit's gates begin, `width` floats each.
template <int Gates>
using GateSums = std::array<float*, Gates>;

// Adds to the sums of Vectors * kLanes rows the products with `depth` weights of each gate of some units.
template <int Gates, int Units, int Vectors>
inline FASTVISION_INLINE void add_chain_in_lanes(const float* weights, int64_t gate_stride, int64_t unit_stride,
                                                 const float* panel, int64_t width, int64_t depth,
                                                 const std::array<GateSums<Gates>, Units>& sums) {
  constexpr int kRows = Gates * Units;
  Vec chain[kRows][Vectors];
  unroll<kRows * Vectors>([&](auto i) FASTVISION_INLINE { chain[i / Vectors][i % Vectors] = Vec(0.f); });
  for (int64_t k = 0; k < depth; ++k, panel += width) {
    Vec x[Vectors];
    unroll<Vectors>([&](auto v) FASTVISION_INLINE { x[v] = Vec::loadu(panel + v * kLanes); });
    unroll<kRows>([&](auto row) FASTVISION_INLINE {
      const Vec w(weights[row % Gates * gate_stride + row / Gates * unit_stride + k]);
      unroll<Vectors>([&](auto v) FASTVISION_INLINE { chain[row][v] = at::vec::fmadd(w, x[v], chain[row][v]); });
    });
  }
  unroll<kRows * Vectors>([&](auto i) FASTVISION_INLINE {
    constexpr int row = decltype(i)::value / Vectors, v = decltype(i)::value % Vectors;
    float* target = sums[row / Gates][row % Gates] + v * kLanes;
    (Vec::loadu(target) + chain[row][v]).store(target);
  });
}

// Units side by side: few rows alone are too few sums to keep the multipliers busy while each waits for itself.
template <int Gates>
constexpr int units_in_lanes(int vectors) {
  return static_cast<int>(std::bit_floor(static_cast<unsigned>(std::max(1, max_tile_rows<Gates>() / vectors))));
}

template <int Gates>
inline FASTVISION_INLINE void prefetch_units(const float* weights, int64_t gate_stride, int64_t unit_stride, int units,
                                             int64_t depth) {
  for (int row = 0; row < Gates * units; ++row) {
    prefetch(weights + row % Gates * gate_stride + row / Gates * unit_stride, depth);
  }
}

// The same for `units` units of a block and all rows; sums(unit) are a unit's. The chain's part of the panel stays in
// the L1 cache, and the next units' weights, short pieces of rows that no hardware prefetcher follows, are on their
// way.
template <int Gates, class Sums>
void add_products_in_lanes(const float* weights, int64_t hidden, int64_t depth, int64_t units, const float* panel,
                           int64_t width, const Sums& sums) {
  constexpr int kMostVectors = max_tile_rows<Gates>();
  const int64_t gate_stride = hidden * depth, vectors = width / kLanes;
  const int64_t tile = ceil_div(vectors, ceil_div(vectors, kMostVectors));
  const auto add = [&]<int Units, int Vectors>(int64_t begin, int64_t chain, int64_t unit,
                                               int64_t v) FASTVISION_INLINE {
    std::array<GateSums<Gates>, Units> targets;
    for (int u = 0; u < Units; ++u) {
      targets[u] = sums(unit + u);
      for (float*& sum : targets[u]) sum += v * kLanes;
    }
    add_chain_in_lanes<Gates, Units, Vectors>(weights + unit * depth + begin, gate_stride, depth,
                                              panel + begin * width + v * kLanes, width, chain, targets);
  };
  for (int64_t begin = 0; begin < depth; begin += kMaxProductChain) {
    const int64_t chain = std::min(kMaxProductChain, depth - begin);
    for (int64_t v = 0; v < vectors; v += tile) {
      unroll<kMostVectors>([&](auto i) FASTVISION_INLINE {
        constexpr int kVectors = decltype(i)::value + 1, kUnits = units_in_lanes<Gates>(kVectors);
        if (std::min(tile, vectors - v) != kVectors) return;
        int64_t unit = 0;
        for (; unit + kUnits <= units; unit += kUnits) {
          if (kPrefetches && v == 0 && unit + kUnits < units) {
            prefetch_units<Gates>(weights + (unit + kUnits) * depth + begin, gate_stride, depth, kUnits, chain);
          }
          add.template operator()<kUnits, kVectors>(begin, chain, unit, v);
        }
        for (; unit < units; ++unit) add.template operator()<1, kVectors>(begin, chain, unit, v);
      });
    }
  }
}

}  // namespace fastvision

// The matrix products of one step of many rows, with the weights as they are: rows of the batch lie in the lanes and
// each weight is broadcast. Nothing is packed but the rows, of which there are few.
#pragma once

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

// Adds to the sums of Vectors * kLanes rows the products with `depth` weights of each gate.
template <int Gates, int Vectors>
inline FASTVISION_INLINE void add_chain_in_lanes(const float* weights, int64_t gate_stride, const float* panel,
                                                 int64_t width, int64_t depth, const GateSums<Gates>& sums) {
  Vec chain[Gates][Vectors];
  unroll<Gates * Vectors>([&](auto i) FASTVISION_INLINE { chain[i / Vectors][i % Vectors] = Vec(0.f); });
  for (int64_t k = 0; k < depth; ++k, panel += width) {
    Vec x[Vectors];
    unroll<Vectors>([&](auto v) FASTVISION_INLINE { x[v] = Vec::loadu(panel + v * kLanes); });
    unroll<Gates>([&](auto gate) FASTVISION_INLINE {
      const Vec w(weights[gate * gate_stride + k]);
      unroll<Vectors>([&](auto v) FASTVISION_INLINE { chain[gate][v] = at::vec::fmadd(w, x[v], chain[gate][v]); });
    });
  }
  unroll<Gates * Vectors>([&](auto i) FASTVISION_INLINE {
    float* target = sums[i / Vectors] + i % Vectors * kLanes;
    (Vec::loadu(target) + chain[i / Vectors][i % Vectors]).store(target);
  });
}

inline FASTVISION_INLINE void prefetch(const float* data, int64_t floats) {
  constexpr int64_t kLine = 16;
  for (int64_t i = 0; i < floats; i += kLine) __builtin_prefetch(data + i);
}

// The same for `units` units of a block and all rows; sums(unit) are a unit's. The chain's part of the panel stays in
// the L1 cache, and the next unit's weights, short pieces of rows that no hardware prefetcher follows, are on their
// way.
template <int Gates, class Sums>
void add_products_in_lanes(const float* weights, int64_t hidden, int64_t depth, int64_t units, const float* panel,
                           int64_t width, const Sums& sums) {
  constexpr int64_t kMostVectors = max_tile_rows<Gates>();
  const int64_t gate_stride = hidden * depth, vectors = width / kLanes;
  const int64_t tile = ceil_div(vectors, ceil_div(vectors, kMostVectors));
  for (int64_t begin = 0; begin < depth; begin += kMaxProductChain) {
    const int64_t chain = std::min(kMaxProductChain, depth - begin);
    for (int64_t unit = 0; unit < units; ++unit) {
      const float* row = weights + unit * depth + begin;
      if (unit + 1 < units) {
        for (int gate = 0; gate < Gates; ++gate) prefetch(row + depth + gate * gate_stride, chain);
      }
      for (int64_t v = 0; v < vectors; v += tile) {
        GateSums<Gates> target = sums(unit);
        for (float*& sum : target) sum += v * kLanes;
        const float* x = panel + begin * width + v * kLanes;
        const int64_t count = std::min(tile, vectors - v);
        unroll<kMostVectors>([&](auto i) FASTVISION_INLINE {
          if (count == i + 1) add_chain_in_lanes<Gates, i + 1>(row, gate_stride, x, width, chain, target);
        });
      }
    }
  }
}

}  // namespace fastvision

// The inner loop: a tile of convolution outputs held in registers, 2 rows x Columns x
// Vectors of output channels. Each step loads one tap's weights, broadcasts one input per
// output and multiplies; nothing is stored until all taps are done.
//
// On Zen 5 with AVX-512 (2 FMA and 2 loads per cycle) 2 x 6 x 2 is 24 FMA against 14 loads,
// 95-99 % of the FMA peak; AVX2 has half the registers and a quarter of the tile.
#pragma once

#include "conv/cpu/plan.h"
#include "core/simd.h"

namespace fastvision {

#if defined(CPU_CAPABILITY_AVX512)
constexpr int kMaxColumns = 7;
#elif defined(CPU_CAPABILITY_AVX2)
constexpr int kMaxColumns = 3;
#else
constexpr int kMaxColumns = 2;
#endif
constexpr int kMaxVectors = 2;

// Two rows of outputs with their inputs: the rows of a pooling window, or the halves of one row.
struct TileInput {
  const float* row[2];    // address of the first output's first tap
  int64_t column_stride;  // to the next output's, in elements
  int64_t tap_stride;     // to the next tap of a run
  const float* weights;   // [tap][vector]
  int64_t weight_stride;  // from tap to tap
  const float* bias;      // [vector]
};

template <int Columns, int Vectors>
struct Tile {
  Vec sum[2][Columns][Vectors];
};

// f(row, column, vector) for each sum of a tile.
template <int Columns, int Vectors, class F>
inline FASTVISION_INLINE void for_each_sum(F&& f) {
  unroll<2 * Columns * Vectors>([&](auto i) FASTVISION_INLINE {
    constexpr int kIndex = decltype(i)::value;
    f(kIndex / Vectors / Columns, kIndex / Vectors % Columns, kIndex % Vectors);
  });
}

// A stride that is one at compile time makes the addresses of a row constants.
using One = std::integral_constant<int64_t, 1>;

// sum[row][column][v] += rows[row][column * column_stride + step * step_stride] * weights[step * weight_stride][v]
template <int Columns, int Vectors, class ColumnStride>
inline FASTVISION_INLINE void multiply_add(Tile<Columns, Vectors>& tile, const float* row0, const float* row1,
                                           ColumnStride column_stride, int64_t step_stride, const float* weights,
                                           int64_t weight_stride, int64_t steps) {
  const float* rows[2] = {row0, row1};
  for (int64_t step = 0; step < steps; ++step) {
    Vec w[Vectors];
    unroll<Vectors>([&](int v) FASTVISION_INLINE { w[v] = Vec::loadu(weights + v * kLanes); });
    unroll<2 * Columns>([&](auto i) FASTVISION_INLINE {
      constexpr int kRow = decltype(i)::value / Columns, kColumn = decltype(i)::value % Columns;
      const Vec a(rows[kRow][kColumn * column_stride + step * step_stride]);
      unroll<Vectors>([&](int v) FASTVISION_INLINE {
        tile.sum[kRow][kColumn][v] = at::vec::fmadd(a, w[v], tile.sum[kRow][kColumn][v]);
      });
    });
    weights += weight_stride;
  }
}

// Adds the taps of one run; returns where the weights of the next begin.
template <int Columns, int Vectors>
inline FASTVISION_INLINE const float* accumulate(Tile<Columns, Vectors>& tile, const TileInput& in, const TapRun& run,
                                                 const float* weights) {
  multiply_add(tile, in.row[0] + run.offset, in.row[1] + run.offset, in.column_stride, in.tap_stride, weights,
               in.weight_stride, run.length);
  return weights + run.length * in.weight_stride;
}

// The sum over all taps. Long sums are cut into chains whose results are added in memory. The bias is
// not the place to start from: it would be the largest number in most of the roundings.
template <int Columns, int Vectors>
inline FASTVISION_INLINE Tile<Columns, Vectors> convolve(const TileInput& in, const DirectPlan& plan) {
  Tile<Columns, Vectors> tile;
  alignas(64) float total[2][Columns][Vectors][kLanes];
  const float* weights = in.weights;
  const TapRun* run = plan.taps.data();
  for (int64_t chain = 0;; ++chain) {
    for_each_sum<Columns, Vectors>([&](int row, int x, int v) FASTVISION_INLINE { tile.sum[row][x][v] = Vec(0.f); });
    do {
      weights = accumulate(tile, in, *run, weights);
    } while (!run++->ends_chain);
    if (chain == plan.chains - 1) break;
    for_each_sum<Columns, Vectors>([&](int row, int x, int v) FASTVISION_INLINE {
      float* sum = total[row][x][v];
      (chain ? Vec::loadu(sum) + tile.sum[row][x][v] : tile.sum[row][x][v]).store(sum);
    });
  }
  if (plan.chains > 1) {
    for_each_sum<Columns, Vectors>([&](int row, int x, int v) FASTVISION_INLINE {
      tile.sum[row][x][v] = Vec::loadu(total[row][x][v]) + tile.sum[row][x][v];
    });
  }
  return tile;
}

}  // namespace fastvision

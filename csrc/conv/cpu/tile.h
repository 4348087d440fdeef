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
constexpr int kMaxColumns = 6;
#else
constexpr int kMaxColumns = 2;
#endif
constexpr int kMaxVectors = 2;

// Two rows of outputs with their inputs: the rows of a pooling window, or the halves of one row.
struct TileInput {
  const float* row[2];    // address of the first output's first tap
  int64_t column_stride;  // to the next output's, in elements
  const float* weights;   // [tap][vector]
  int64_t weight_stride;  // from tap to tap
  const float* bias;      // [vector]
};

template <int Columns, int Vectors>
struct Tile {
  Vec sum[2][Columns][Vectors];
};

template <int Columns, int Vectors, class F>
inline __attribute__((always_inline)) void for_each_sum(F&& f) {
  FASTVISION_UNROLL
  for (int row = 0; row < 2; ++row) {
    FASTVISION_UNROLL
    for (int x = 0; x < Columns; ++x) {
      FASTVISION_UNROLL
      for (int v = 0; v < Vectors; ++v) f(row, x, v);
    }
  }
}

// Adds the taps of one run; returns where the weights of the next begin.
template <int Columns, int Vectors>
inline __attribute__((always_inline)) const float* accumulate(Tile<Columns, Vectors>& tile, const TileInput& in,
                                                              const TapRun& run, const float* weights) {
  const float* row0 = in.row[0] + run.offset;
  const float* row1 = in.row[1] + run.offset;
  for (int32_t tap = 0; tap < run.length; ++tap) {
    Vec w[Vectors];
    FASTVISION_UNROLL
    for (int v = 0; v < Vectors; ++v) w[v] = Vec::loadu(weights + v * kLanes);
    FASTVISION_UNROLL
    for (int x = 0; x < Columns; ++x) {
      const Vec a(row0[x * in.column_stride + tap]);
      FASTVISION_UNROLL
      for (int v = 0; v < Vectors; ++v) tile.sum[0][x][v] = at::vec::fmadd(a, w[v], tile.sum[0][x][v]);
    }
    FASTVISION_UNROLL
    for (int x = 0; x < Columns; ++x) {
      const Vec a(row1[x * in.column_stride + tap]);
      FASTVISION_UNROLL
      for (int v = 0; v < Vectors; ++v) tile.sum[1][x][v] = at::vec::fmadd(a, w[v], tile.sum[1][x][v]);
    }
    weights += in.weight_stride;
  }
  return weights;
}

// bias + sum over all taps. Long sums are cut into chains whose results are added in memory.
template <int Columns, int Vectors>
inline __attribute__((always_inline)) Tile<Columns, Vectors> convolve(const TileInput& in, const DirectPlan& plan) {
  Tile<Columns, Vectors> tile;
  for_each_sum<Columns, Vectors>(
      [&](int row, int x, int v) { tile.sum[row][x][v] = Vec::loadu(in.bias + v * kLanes); });
  const float* weights = in.weights;
  if (plan.one_chain) {
    for (const TapRun& run : plan.taps) weights = accumulate(tile, in, run, weights);
    return tile;
  }
  alignas(64) float total[2][Columns][Vectors][kLanes];
  for_each_sum<Columns, Vectors>([&](int row, int x, int v) { tile.sum[row][x][v].store(total[row][x][v]); });
  for_each_sum<Columns, Vectors>([&](int row, int x, int v) { tile.sum[row][x][v] = Vec(0.f); });
  for (const TapRun& run : plan.taps) {
    weights = accumulate(tile, in, run, weights);
    if (!run.ends_chain) continue;
    for_each_sum<Columns, Vectors>([&](int row, int x, int v) {
      (Vec::loadu(total[row][x][v]) + tile.sum[row][x][v]).store(total[row][x][v]);
      tile.sum[row][x][v] = Vec(0.f);
    });
  }
  for_each_sum<Columns, Vectors>([&](int row, int x, int v) { tile.sum[row][x][v] = Vec::loadu(total[row][x][v]); });
  return tile;
}

}  // namespace fastvision

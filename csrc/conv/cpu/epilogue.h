// What becomes of a tile of sums: stored, or max-pooled in registers.
#pragma once

#include "conv/cpu/pool.h"
#include "conv/cpu/tile.h"

namespace fastvision {

// Where a tile goes that is stored as it is: `pixel` floats from column to column.
struct TileOutput {
  float* row[2];
  int64_t pixel;
};

template <int Columns, int Vectors, bool Relu>
__attribute__((noinline)) void convolve_and_store(const TileInput& in, const DirectPlan& plan, const TileOutput& out) {
  const Tile<Columns, Vectors> tile = convolve<Columns, Vectors>(in, plan);
  for_each_sum<Columns, Vectors>([&](int row, int x, int v) FASTVISION_INLINE {
    const Vec sum = tile.sum[row][x][v] + Vec::loadu(in.bias + v * kLanes);
    (Relu ? max_keeping_second(Vec(0.f), sum) : sum).store(out.row[row] + x * out.pixel + v * kLanes);
  });
}

// The maximum of four sums and the place of the first that is largest, neither with regard to NaN.
inline Vec max_of_window(const Vec& a, const Vec& b, const Vec& c, const Vec& d) {
  return max_keeping_second(d, max_keeping_second(c, max_keeping_second(a, b)));
}

inline Vec winner_of_window(const Vec& a, const Vec& b, const Vec& c, const Vec& d) {
  const Vec top = max_keeping_second(a, b);
  const Vec bottom = max_keeping_second(c, d);
  const Vec top_winner = Vec::blendv(Vec(0.f), Vec(1.f), b > a);
  const Vec bottom_winner = Vec::blendv(Vec(2.f), Vec(3.f), d > c);
  return Vec::blendv(top_winner, bottom_winner, bottom > top);
}

// f(column, vector) for each window's first column.
template <int Columns, int Vectors, class F>
inline FASTVISION_INLINE void for_each_window(F&& f) {
  unroll<Columns / 2 * Vectors>([&](int i) FASTVISION_INLINE { f(i / Vectors * 2, i % Vectors); });
}

// 2x2 max-pool with stride 2, and ReLU where the problem has it. max(relu(x + b)) = relu(max(x) + b):
// the pool comes first, and leaves a quarter of the work for what follows.
template <int Columns, int Vectors, bool Relu, bool Select>
__attribute__((noinline)) void convolve_and_max_pool(const TileInput& in, const DirectPlan& plan, const ConvPool2d& p,
                                                     const PooledRow& out) {
  const Tile<Columns, Vectors> tile = convolve<Columns, Vectors>(in, plan);
  // The processor's max loses NaN, and one that keeps it costs three times as much. A sum over
  // all finds it instead; the second value of a window is kept anyway.
  Vec bias[Vectors];
  Vec suspect(0.f);
  unroll<Vectors>([&](int v) FASTVISION_INLINE {
    bias[v] = Vec::loadu(in.bias + v * kLanes);
    suspect = suspect + bias[v];
  });
  for_each_window<Columns, Vectors>([&](int x, int v) FASTVISION_INLINE {
    suspect = suspect + (tile.sum[0][x][v] + (tile.sum[1][x][v] + tile.sum[1][x + 1][v]));
    if constexpr (Select) suspect = suspect + tile.sum[0][x + 1][v];
  });
  if (__builtin_expect(suspect.has_inf_nan(), false)) {  // or an infinity: take the careful way, through memory
    float sums[2][Columns * Vectors * kLanes];
    for_each_sum<Columns, Vectors>([&](int row, int x, int v) FASTVISION_INLINE {
      (tile.sum[row][x][v] + bias[v]).store(sums[row] + (x * Vectors + v) * kLanes);
    });
    const float* rows[] = {sums[0], sums[1]};
    ConvPool2d part = p;
    part.conv_w = Columns;
    part.out_w = Columns / 2;
    return pool_row(part, {rows, {0, 2, 0, 2}, Vectors * kLanes}, Vectors, out);
  }

  for_each_window<Columns, Vectors>([&](int x, int v) FASTVISION_INLINE {
    const auto& [top, bottom] = tile.sum;
    const Vec best = max_of_window(top[x][v], top[x + 1][v], bottom[x][v], bottom[x + 1][v]) + bias[v];
    (Relu ? max_keeping_second(Vec(0.f), best) : best).store(out.values + x / 2 * out.value_pixel + v * kLanes);
    if constexpr (Select) {
      Vec code = winner_of_window(top[x][v], top[x + 1][v], bottom[x][v], bottom[x + 1][v]);
      if constexpr (Relu) code = Vec::blendv(code, Vec(static_cast<float>(kDead)), best <= Vec(0.f));
      code.store(out.codes + x / 2 * out.code_pixel + v * kLanes);
    }
  });
}

}  // namespace fastvision

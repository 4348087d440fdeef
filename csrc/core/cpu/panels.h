// The right side of a matrix product in panels of two vectors, and products with one of them.
#pragma once

#include <cstring>

#include "core/gemm.h"
#include "core/integers.h"
#include "core/simd.h"

namespace fastvision {

constexpr int64_t kPanel = 2 * kLanes;  // columns

// Products added in a row into one register; a panel of this many rows stays in the L1 cache.
constexpr int64_t kMaxChain = 256;

// Columns [column, column + columns) of `count` rows into [panel][row][kPanel], with zeros beyond the last one.
template <class T>
void pack_panels(const void* const* rows, int64_t count, int64_t column, int64_t columns, float* panels) {
  for (int64_t row = 0; row < count; ++row) {
    const T* source = static_cast<const T*>(rows[row]) + column;
    float* target = panels + row * kPanel;
    int64_t c = 0;
    for (; c + kPanel <= columns; c += kPanel, target += count * kPanel) {
      if constexpr (std::is_same_v<T, float>) {
        Vec::loadu(source + c).store(target);
        Vec::loadu(source + c + kLanes).store(target + kLanes);
      } else {
        convert_row(source + c, target, kPanel);
      }
    }
    if (c < columns) {
      std::fill_n(target, kPanel, 0.f);
      convert_row(source + c, target, columns - c);
    }
  }
}

// rows x depth times depth x kPanel, depth <= kMaxChain; finish(row, vector, sum) takes the sums.
template <class Finish>
void multiply_panel(const float* left, int64_t left_stride, int64_t rows, const float* panel, int64_t depth,
                    const Finish& finish) {
  multiply_rows<2>({left, left_stride, panel, kPanel, depth, depth, 1, nullptr}, rows, finish);
}

}  // namespace fastvision

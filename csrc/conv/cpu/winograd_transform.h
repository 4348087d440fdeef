// The transforms of Winograd's F(4x4, 3x3): 4x4 outputs of a 3x3 convolution from 36 products instead of 144.
// (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015.)
//
// One dimension computes four outputs of a three-tap filter as A^T [(G g) * (B^T d)] by evaluating both polynomials at
// the points 0, +-kA, +-kB and infinity. The points decide how rounding errors grow: with these they are a third of
// those of the usual 0, +-1, +-2.
#pragma once

#include "conv/cpu/winograd.h"
#include "core/simd.h"

namespace fastvision::winograd {

constexpr float kA = 0.625f, kB = 1.5f;
constexpr float kA2 = kA * kA, kB2 = kB * kB;

// B^T d
inline FASTVISION_INLINE void transform_input(const Vec (&x)[kWindow], Vec (&y)[kWindow]) {
  using at::vec::fmadd;
  const Vec product(kA2 * kB2), minus_sum(-(kA2 + kB2)), minus_a2(-kA2), minus_b2(-kB2);
  y[0] = fmadd(product, x[0], fmadd(minus_sum, x[2], x[4]));
  const Vec even_a = fmadd(minus_b2, x[2], x[4]), odd_a = fmadd(minus_b2, x[1], x[3]);
  y[1] = fmadd(Vec(kA), odd_a, even_a);
  y[2] = fmadd(Vec(-kA), odd_a, even_a);
  const Vec even_b = fmadd(minus_a2, x[2], x[4]), odd_b = fmadd(minus_a2, x[1], x[3]);
  y[3] = fmadd(Vec(kB), odd_b, even_b);
  y[4] = fmadd(Vec(-kB), odd_b, even_b);
  y[5] = fmadd(product, x[1], fmadd(minus_sum, x[3], x[5]));
}

// A^T m
inline FASTVISION_INLINE void transform_output(const Vec (&m)[kWindow], Vec (&y)[kTile]) {
  using at::vec::fmadd;
  const Vec sum_a = m[1] + m[2], difference_a = m[1] - m[2];
  const Vec sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  y[0] = (m[0] + sum_a) + sum_b;
  y[1] = fmadd(Vec(kB), difference_b, Vec(kA) * difference_a);
  y[2] = fmadd(Vec(kB2), sum_b, Vec(kA2) * sum_a);
  y[3] = fmadd(Vec(kB2 * kB), difference_b, fmadd(Vec(kA2 * kA), difference_a, m[5]));
}

// G g, with the denominators of Lagrange's interpolation
inline FASTVISION_INLINE void transform_weight(const Vec (&g)[kTaps], Vec (&u)[kWindow]) {
  using at::vec::fmadd;
  constexpr double a2 = static_cast<double>(kA) * kA, b2 = static_cast<double>(kB) * kB;
  constexpr float at_zero = static_cast<float>(1 / (a2 * b2));
  constexpr float at_a = static_cast<float>(1 / (2 * a2 * (a2 - b2)));
  constexpr float at_b = static_cast<float>(1 / (2 * b2 * (b2 - a2)));
  u[0] = g[0] * Vec(at_zero);
  const Vec even_a = fmadd(Vec(kA2), g[2], g[0]) * Vec(at_a), odd_a = g[1] * Vec(kA * at_a);
  u[1] = even_a + odd_a;
  u[2] = even_a - odd_a;
  const Vec even_b = fmadd(Vec(kB2), g[2], g[0]) * Vec(at_b), odd_b = g[1] * Vec(kB * at_b);
  u[3] = even_b + odd_b;
  u[4] = even_b - odd_b;
  u[5] = g[2];
}

// The transforms in both dimensions. `load(row, column)` gives an element, `store(row, column, value)` takes one.
template <int Rows, int Columns, int OutRows, int OutColumns, auto Transform, class Load, class Store>
inline FASTVISION_INLINE void transform_square(Load&& load, Store&& store) {
  Vec half[OutRows][Columns];
  unroll<Columns>([&](auto column) FASTVISION_INLINE {
    Vec from[Rows], to[OutRows];
    unroll<Rows>([&](auto row) FASTVISION_INLINE { from[row] = load(row, column); });
    Transform(from, to);
    unroll<OutRows>([&](auto row) FASTVISION_INLINE { half[row][column] = to[row]; });
  });
  unroll<OutRows>([&](auto row) FASTVISION_INLINE {
    Vec to[OutColumns];
    Transform(half[row], to);
    unroll<OutColumns>([&](auto column) FASTVISION_INLINE { store(row, column, to[column]); });
  });
}

}  // namespace fastvision::winograd

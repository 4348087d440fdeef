// Matrix products in registers: rows x channels times channels x two vectors.
#pragma once

#include <array>

#include "core/integers.h"
#include "core/simd.h"

namespace fastvision {

// Rows in registers at once. Zen 5 with AVX-512: 12 x 2 vectors are 24 FMA against 14 loads; AVX2 has half the
// registers.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kMaxGemmRows = 12;
#elif defined(CPU_CAPABILITY_AVX2)
constexpr int kMaxGemmRows = 6;
#else
constexpr int kMaxGemmRows = 2;
#endif

struct Product {
  const float* rows;  // [row][channel]
  int64_t row_stride;
  const float* vectors;  // [channel][vector]
  int64_t vector_stride;
  int64_t channels;
  int64_t max_chain;   // products added in a row into one register: short sums keep the rounding error small
  int64_t max_chains;  // sums of chains added in a row, for the same reason
  float* sums;         // [row][vector], of the chains before the last; null where there is only one
};

template <int Rows, int Vectors>
using Sums = Vec[Rows][Vectors];

template <int Rows, int Vectors>
inline FASTVISION_INLINE void multiply_chain(const Product& p, int64_t first_row, int64_t begin, int64_t end,
                                             Sums<Rows, Vectors>& sum) {
  unroll<Rows * Vectors>([&](auto i) FASTVISION_INLINE { sum[i / Vectors][i % Vectors] = Vec(0.f); });
  const float* rows = p.rows + first_row * p.row_stride;
  const float* vectors = p.vectors + begin * p.vector_stride;
  const int64_t row_stride = p.row_stride, vector_stride = p.vector_stride;
  for (int64_t c = begin; c < end; ++c, vectors += vector_stride) {
    Vec w[Vectors];
    unroll<Vectors>([&](auto v) FASTVISION_INLINE { w[v] = Vec::loadu(vectors + v * kLanes); });
    unroll<Rows>([&](auto row) FASTVISION_INLINE {
      const Vec x(rows[row * row_stride + c]);
      unroll<Vectors>([&](auto v) FASTVISION_INLINE { sum[row][v] = at::vec::fmadd(x, w[v], sum[row][v]); });
    });
  }
}

template <int Rows, int Vectors>
inline FASTVISION_INLINE void add_stored(const float* stored, Sums<Rows, Vectors>& sum) {
  unroll<Rows * Vectors>([&](auto i) FASTVISION_INLINE {
    Vec& s = sum[i / Vectors][i % Vectors];
    s = Vec::loadu(stored + i * kLanes) + s;
  });
}

template <int Rows, int Vectors>
inline FASTVISION_INLINE void store(const Sums<Rows, Vectors>& sum, float* target) {
  unroll<Rows * Vectors>([&](auto i) FASTVISION_INLINE { sum[i / Vectors][i % Vectors].store(target + i * kLanes); });
}

// `Rows` rows: chains one after the other, their sums in groups. The last sums go to finish(row, vector, sum).
template <int Rows, int Vectors, class Finish>
inline FASTVISION_INLINE void multiply_group(const Product& p, int64_t first_row, const Finish& finish) {
  const auto total = [&]() FASTVISION_INLINE { return p.sums + first_row * Vectors * kLanes; };
  float group[Rows * Vectors * kLanes];
  const int64_t group_size = p.max_chain * p.max_chains;
  for (int64_t begin = 0, group_begin = 0; begin < p.channels; begin += p.max_chain) {
    const int64_t end = std::min(begin + p.max_chain, p.channels);
    Sums<Rows, Vectors> sum;
    multiply_chain<Rows, Vectors>(p, first_row, begin, end, sum);
    if (begin > group_begin) add_stored<Rows, Vectors>(group, sum);
    const bool is_last = end == p.channels;
    if (!is_last && end < group_begin + group_size) {
      store<Rows, Vectors>(sum, group);
      continue;
    }
    if (group_begin > 0) add_stored<Rows, Vectors>(total(), sum);
    group_begin = end;
    if (is_last) {
      unroll<Rows * Vectors>([&](auto i) FASTVISION_INLINE {
        finish(first_row + i / Vectors, i % Vectors, sum[i / Vectors][i % Vectors]);
      });
    } else {
      store<Rows, Vectors>(sum, total());
    }
  }
}

// `groups` times `Rows` rows.
template <int Rows, int Vectors, class Finish>
__attribute__((noinline)) void multiply(const Product& product, int64_t first_row, int64_t groups,
                                        const Finish& finish) {
  // Copies: what finish() stores could otherwise be these.
  const Product p = product;
  const Finish finish_here = finish;
  for (int64_t i = 0; i < groups; ++i, first_row += Rows) {
    multiply_group<Rows, Vectors>(p, first_row, finish_here);
  }
}

template <int Vectors, class Finish, int... Rows>
constexpr auto multiply_by_rows(std::integer_sequence<int, Rows...>) {
  return std::array{&multiply<Rows + 1, Vectors, Finish>...};
}

// Any number of rows: groups of two sizes, as equal as can be.
template <int Vectors, class Finish>
void multiply_rows(const Product& product, int64_t rows, const Finish& finish) {
  static constexpr auto kernels = multiply_by_rows<Vectors, Finish>(std::make_integer_sequence<int, kMaxGemmRows>());
  const int64_t groups = ceil_div(rows, kMaxGemmRows);
  const int64_t size = rows / groups, larger = rows % groups;
  if (larger) kernels[size](product, 0, larger, finish);
  kernels[size - 1](product, larger * (size + 1), groups - larger, finish);
}

}  // namespace fastvision

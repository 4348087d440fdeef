// The matrix products of a recurrent layer, a block of kLanes hidden units at a time: all gates of a unit end in the
// same lane, so that the activations follow in registers.
#pragma once

#include "core/integers.h"
#include "core/simd.h"

namespace fastvision {

// Rows of the batch in registers at once, times three or four gates. Zen 3: 3 x 4 and 4 x 3 vectors leave one of
// AVX2's 16 registers for the operand that changes fastest.
template <int Gates>
constexpr int max_tile_rows() {
#if defined(CPU_CAPABILITY_AVX512)
  return 24 / Gates;
#elif defined(CPU_CAPABILITY_AVX2)
  return 12 / Gates;
#else
  return 2;
#endif
}

// f<Rows>(first row) over `count` rows, in tiles as equal as they can be: few rows leave multipliers idle (Zen 3, 32
// and 64 sequences: 2 to 5 %).
template <int MaxRows, class F>
inline FASTVISION_INLINE void by_tiles(int64_t count, const F& f) {
  const int64_t tiles = ceil_div(count, MaxRows);
  for (int64_t tile = 0, row = 0; tile < tiles; ++tile) {
    const int64_t rows = (count - row) / (tiles - tile);
    unroll<MaxRows>([&](auto i) {
      if (rows == i + 1) f.template operator()<i + 1>(row);
    });
    row += rows;
  }
}

template <class T>
inline FASTVISION_INLINE Vec load_as_float(const T* source, int64_t n) {
  if constexpr (std::is_same_v<T, float>) {
    return n >= kLanes ? Vec::loadu(source) : load_first(source, n);
  } else {
    if (n < kLanes) {
      float lanes[kLanes]{};
      convert_row(source, lanes, n);
      return Vec::loadu(lanes);
    }
    Vec values;
    if constexpr (std::is_same_v<T, int8_t>) {
      values = load_int8_as_float(source);
    } else if constexpr (std::is_same_v<T, c10::BFloat16>) {
      at::vec::load_fp32_from_bf16(source, values);
    } else {
      at::vec::load_fp32_from_fp16(source, values);
    }
    return values;
  }
}

// Up to kLanes rows, each times its scale if there are any, into (depth, rows).
template <class W>
void transpose_decoded(const W* source, const float* scale, int64_t rows, int64_t depth, float* target,
                       int64_t target_stride) {
  for (int64_t k = 0; k < depth; k += kLanes) {
    const int64_t n = std::min(kLanes, depth - k);
    float square[kLanes * kLanes];
    for (int64_t i = 0; i < rows; ++i) {
      const Vec values = load_as_float(source + i * depth + k, n);
      (scale ? values * Vec(scale[i]) : values).store(square + i * kLanes);
    }
    transpose_square(square, kLanes, rows, n, target + k * target_stride, target_stride);
  }
}

// Units [unit, unit + kLanes) of all gates into [k][gate][kLanes], zeros where there is no such unit. The weights are
// (Gates * hidden, depth); `scale`, if not null, has a factor for each of their rows.
template <int Gates, class W>
void pack_block(const W* weights, const float* scale, int64_t hidden, int64_t depth, int64_t unit, float* block) {
  const int64_t units = std::min(kLanes, hidden - unit);
  if (units < kLanes) std::fill_n(block, depth * Gates * kLanes, 0.f);
  for (int64_t gate = 0; gate < Gates; ++gate) {
    const int64_t row = gate * hidden + unit;
    float* target = block + gate * kLanes;
    if constexpr (std::is_same_v<W, float>) {
      transpose(weights + row * depth, depth, units, depth, target, Gates * kLanes);
    } else {
      transpose_decoded(weights + row * depth, scale ? scale + row : nullptr, units, depth, target, Gates * kLanes);
    }
  }
}

// sum += rows x block, a packed one.
template <int Rows, int Gates>
inline FASTVISION_INLINE void add_chain(Vec (&sum)[Rows][Gates], const float* rows, int64_t stride, const float* block,
                                        int64_t depth) {
  for (int64_t k = 0; k < depth; ++k, block += Gates * kLanes) {
    // What there is less of is loaded first and stays.
    if constexpr (Rows < Gates) {
      Vec x[Rows];
      unroll<Rows>([&](auto row) FASTVISION_INLINE { x[row] = Vec(rows[row * stride + k]); });
      unroll<Gates>([&](auto gate) FASTVISION_INLINE {
        const Vec w = Vec::loadu(block + gate * kLanes);
        unroll<Rows>([&](auto row) FASTVISION_INLINE { sum[row][gate] = at::vec::fmadd(x[row], w, sum[row][gate]); });
      });
    } else {
      Vec w[Gates];
      unroll<Gates>([&](auto gate) FASTVISION_INLINE { w[gate] = Vec::loadu(block + gate * kLanes); });
      unroll<Rows>([&](auto row) FASTVISION_INLINE {
        const Vec x(rows[row * stride + k]);
        unroll<Gates>([&](auto gate)
                          FASTVISION_INLINE { sum[row][gate] = at::vec::fmadd(x, w[gate], sum[row][gate]); });
      });
    }
  }
}

// The same in chains that are short enough for the rounding error to stay below twice stock's.
constexpr int64_t kMaxProductChain = 128;
template <int Rows, int Gates>
inline FASTVISION_INLINE void add_products(Vec (&sum)[Rows][Gates], const float* rows, int64_t stride,
                                           const float* block, int64_t depth) {
  for (int64_t begin = 0; begin < depth; begin += kMaxProductChain, block += kMaxProductChain * Gates * kLanes) {
    Vec chain[Rows][Gates];
    unroll<Rows * Gates>([&](auto i) FASTVISION_INLINE { chain[i / Gates][i % Gates] = Vec(0.f); });
    add_chain(chain, rows + begin, stride, block, std::min(kMaxProductChain, depth - begin));
    unroll<Rows * Gates>([&](auto i) FASTVISION_INLINE {
      Vec& total = sum[i / Gates][i % Gates];
      total = total + chain[i / Gates][i % Gates];
    });
  }
}

// For each of `units` <= kLanes rows of the weights its product with x; the other lanes are arbitrary. Weights are read
// as they are: nothing is packed, and nothing can be out of date.
template <class W>
inline Vec dot_products(const W* weights, int64_t depth, int64_t units, const float* x) {
  Square sum;
  unroll<kLanes>([&](auto i) FASTVISION_INLINE { sum[i] = Vec(0.f); });
  const auto add = [&](int64_t k, int64_t n, int64_t rows) FASTVISION_INLINE {
    const Vec v = n >= kLanes ? Vec::loadu(x + k) : load_first(x + k, n);
    unroll<kLanes>([&](auto i) FASTVISION_INLINE {
      const int64_t row = std::min<int64_t>(i, rows - 1);
      sum[i] = at::vec::fmadd(load_as_float(weights + row * depth + k, n), v, sum[i]);
    });
  };
  int64_t k = 0;
  if (units == kLanes) {
    if constexpr (std::is_same_v<W, c10::BFloat16>) {
      for (; k + 2 * kLanes <= depth; k += 2 * kLanes) {
        const auto [x_even, x_odd] = at::vec::deinterleave2(Vec::loadu(x + k), Vec::loadu(x + k + kLanes));
        unroll<kLanes>([&](auto i) FASTVISION_INLINE {
          const auto [even, odd] = load_even_and_odd(weights + i * depth + k);
          sum[i] = at::vec::fmadd(odd, x_odd, at::vec::fmadd(even, x_even, sum[i]));
        });
      }
    }
    for (; k + kLanes <= depth; k += kLanes) add(k, kLanes, kLanes);
    if (k < depth) add(k, depth - k, kLanes);
  } else {
    for (; k < depth; k += kLanes) add(k, depth - k, units);
  }
  transpose_registers(sum);
  Vec total = sum[0];
  unroll<kLanes - 1>([&](auto i) FASTVISION_INLINE { total = total + sum[i + 1]; });
  return total;
}

}  // namespace fastvision

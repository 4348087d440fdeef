// The matrix products of a recurrent layer, a block of kLanes hidden units at a time: all gates of a unit end in the
// same lane, so that the activations follow in registers.
#pragma once

#include "core/integers.h"
#include "core/load.h"
#include "core/simd.h"
#include "rnn/cpu/arithmetic.h"

namespace fastvision {

// Weights that come next are asked for early. Zen 5 with AVX-512 fetches them by itself, and is 3 to 10 % slower if
// told.
#if defined(CPU_CAPABILITY_AVX512)
constexpr bool kPrefetches = false;
#else
constexpr bool kPrefetches = true;
#endif

inline FASTVISION_INLINE void prefetch(const float* data, int64_t floats) {
  constexpr int64_t kLine = 16;
  for (int64_t i = 0; i < floats; i += kLine) __builtin_prefetch(data + i);
}

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

// The same of pairs of bf16 numbers, of which `depth` is a multiple of two: [k / 2][gate][kLanes][2].
template <int Gates>
void pack_pairs(const c10::BFloat16* weights, int64_t hidden, int64_t depth, int64_t unit, float* block) {
  pack_block<Gates>(reinterpret_cast<const float*>(weights), nullptr, hidden, depth / 2, unit, block);
}

// sum += rows x block, a packed one. Depth and strides are in floats, whatever is in them.
template <class Arithmetic, int Rows, int Gates>
inline FASTVISION_INLINE void add_chain(Vec (&sum)[Rows][Gates], const float* rows, int64_t stride, const float* block,
                                        int64_t depth) {
  for (int64_t k = 0; k < depth; ++k, block += Gates * kLanes) {
    // What there is less of is loaded first and stays.
    if constexpr (Rows < Gates) {
      Vec x[Rows];
      unroll<Rows>([&](auto row) FASTVISION_INLINE { x[row] = Arithmetic::broadcast(rows + row * stride + k); });
      unroll<Gates>([&](auto gate) FASTVISION_INLINE {
        const Vec w = Vec::loadu(block + gate * kLanes);
        unroll<Rows>([&](auto row)
                         FASTVISION_INLINE { sum[row][gate] = Arithmetic::multiply_add(x[row], w, sum[row][gate]); });
      });
    } else {
      Vec w[Gates];
      unroll<Gates>([&](auto gate) FASTVISION_INLINE { w[gate] = Vec::loadu(block + gate * kLanes); });
      unroll<Rows>([&](auto row) FASTVISION_INLINE {
        const Vec x = Arithmetic::broadcast(rows + row * stride + k);
        unroll<Gates>([&](auto gate)
                          FASTVISION_INLINE { sum[row][gate] = Arithmetic::multiply_add(x, w[gate], sum[row][gate]); });
      });
    }
  }
}

// The same in chains that are short enough for the rounding error to stay below twice stock's.
constexpr int64_t kMaxProductChain = 128;
template <class Arithmetic, int Rows, int Gates>
inline FASTVISION_INLINE void add_products(Vec (&sum)[Rows][Gates], const float* rows, int64_t stride,
                                           const float* block, int64_t depth) {
  for (int64_t begin = 0; begin < depth; begin += kMaxProductChain, block += kMaxProductChain * Gates * kLanes) {
    Vec chain[Rows][Gates];
    unroll<Rows * Gates>([&](auto i) FASTVISION_INLINE { chain[i / Gates][i % Gates] = Vec(0.f); });
    add_chain<Arithmetic>(chain, rows + begin, stride, block, std::min(kMaxProductChain, depth - begin));
    unroll<Rows * Gates>([&](auto i) FASTVISION_INLINE {
      Vec& total = sum[i / Gates][i % Gates];
      total = total + chain[i / Gates][i % Gates];
    });
  }
}

// The same for the only row there is, in two chains, because its few sums would wait for each other (Zen 3, three
// gates: 18 % of what the L2 cache gives). A row of a batch would have other sums, bit by bit, alone in its tile than
// beside others.
template <int Gates>
inline FASTVISION_INLINE void add_products_of_only_row(Vec (&sum)[Gates], const float* row, const float* block,
                                                       int64_t depth) {
  for (int64_t begin = 0; begin < depth; begin += 2 * kMaxProductChain) {
    const int64_t end = std::min(begin + 2 * kMaxProductChain, depth);
    Vec even[Gates], odd[Gates];
    unroll<Gates>([&](auto gate) FASTVISION_INLINE { even[gate] = odd[gate] = Vec(0.f); });
    const auto add = [&](Vec(&chain)[Gates], int64_t k) FASTVISION_INLINE {
      const Vec x(row[k]);
      const float* w = block + k * Gates * kLanes;
      unroll<Gates>([&](auto gate) FASTVISION_INLINE {
        chain[gate] = at::vec::fmadd(x, Vec::loadu(w + gate * kLanes), chain[gate]);
      });
    };
    int64_t k = begin;
    for (; k + 2 <= end; k += 2) {
      add(even, k);
      add(odd, k + 1);
    }
    if (k < end) add(even, k);
    unroll<Gates>([&](auto gate) FASTVISION_INLINE { sum[gate] = sum[gate] + (even[gate] + odd[gate]); });
  }
}

// Rows of weights that are read side by side. One after the other they are a single stream for the prefetcher (Zen 5
// with AVX-512, 128 to 512 units: fp32 in 0.75 to 0.9 of the time of 8 rows, 16 bits and int8 in 0.6 to 0.9). AVX2
// waits for loads of x and conversions sooner than for memory: 1.0 to 1.4.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kRowsSideBySide = 1;
#else
constexpr int kRowsSideBySide = kLanes / 2;
#endif

// 2 * kLanes numbers in two vectors: for several rows of bf16 those at even and those at odd places, which is less
// work.
template <class W>
constexpr bool kEvenAndOdd = kRowsSideBySide > 1 && std::is_same_v<W, c10::BFloat16>;
template <class W>
inline FASTVISION_INLINE std::pair<Vec, Vec> load_weights(const W* source) {
  if constexpr (kEvenAndOdd<W>) {
    return load_even_and_odd(source);
  } else {
    return {load_as_float(source, kLanes), load_as_float(source + kLanes, kLanes)};
  }
}
template <class W>
inline FASTVISION_INLINE std::pair<Vec, Vec> load_as_weights(const float* x) {
  const Vec first = Vec::loadu(x), second = Vec::loadu(x + kLanes);
  if constexpr (kEvenAndOdd<W>) return at::vec::deinterleave2(first, second);
  return {first, second};
}

// Four chains at least, which wait for nothing.
constexpr int kPairsOfChains = kRowsSideBySide == 1 ? 2 : 1;

// The products of rows with the first elements of x, whole turns of all chains, in vectors whose lanes are still to be
// added.
template <class W, int Rows = kRowsSideBySide>
inline FASTVISION_INLINE void multiply_side_by_side(const W* const (&row)[Rows], int64_t depth, const float* x,
                                                    float* sums) {
  constexpr int kPairs = kPairsOfChains;
  Vec first[kPairs][Rows], second[kPairs][Rows];
  unroll<kPairs * Rows>([&](auto i)
                            FASTVISION_INLINE { first[i / Rows][i % Rows] = second[i / Rows][i % Rows] = Vec(0.f); });
  for (int64_t k = 0; k < depth; k += kPairs * 2 * kLanes) {
    unroll<kPairs>([&](auto pair) FASTVISION_INLINE {
      const int64_t at = k + pair * 2 * kLanes;
      const auto both = load_as_weights<W>(x + at);
      const Vec x_first = both.first, x_second = both.second;
      unroll<Rows>([&](auto i) FASTVISION_INLINE {
        const auto w = load_weights(row[i] + at);
        first[pair][i] = at::vec::fmadd(w.first, x_first, first[pair][i]);
        second[pair][i] = at::vec::fmadd(w.second, x_second, second[pair][i]);
      });
    });
  }
  unroll<Rows>([&](auto i) FASTVISION_INLINE {
    Vec sum = first[0][i] + second[0][i];
    if constexpr (kPairs == 2) sum = sum + (first[1][i] + second[1][i]);
    sum.store(sums + i * kLanes);
  });
}

// For each of `units` <= kLanes rows of the weights its product with x; the other lanes are arbitrary. Weights are read
// as they are: nothing is packed, and nothing can be out of date.
template <class W>
inline Vec dot_products(const W* weights, int64_t depth, int64_t units, const float* x) {
  constexpr int kRows = kRowsSideBySide;
  const int64_t whole = depth - depth % (kPairsOfChains * 2 * kLanes);
  alignas(64) float sums[kLanes * kLanes];  // no vectors: GCC 12 fills those with zeros first, by a slow instruction
  const W* next = weights;
  unroll<kLanes / kRows>([&](auto group) FASTVISION_INLINE {
    const W* row[kRows];
    unroll<kRows>([&](auto i) FASTVISION_INLINE {
      row[i] = next;
      if (group * kRows + i + 1 < units) next += depth;  // the last row, again, where there are no more
    });
    multiply_side_by_side<W>(row, whole, x, sums + group * kRows * kLanes);
  });
  // Apart, so that the code above is short (Zen 5: 0.75 of the time).
  for (int64_t k = whole; k < depth; k += kLanes) {
    const Vec v = load_as_float(x + k, depth - k);
    for (int64_t unit = 0; unit < units; ++unit) {
      float* sum = sums + unit * kLanes;
      at::vec::fmadd(load_as_float(weights + unit * depth + k, depth - k), v, Vec::loadu(sum)).store(sum);
    }
  }
  return sums_of_lanes([&](int i) FASTVISION_INLINE { return Vec::loadu(sums + i * kLanes); });
}

}  // namespace fastvision

// Dot products of rows of the input with rows of the weights, both read where they are: nothing is packed, which few
// rows would not repay, and nothing can be out of date.
#include "linear/cpu/forward.h"

#include <algorithm>

#include "core/integers.h"
#include "core/load.h"
#include "core/simd.h"

namespace fastvision {
namespace {

// Rows x output features in registers. Loads per multiply-add: seven twelfths at 3 x 4.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kMaxRows = 6;
constexpr int features_of(int rows) {
  return rows <= 3 ? 8 : 4;
}
#elif defined(CPU_CAPABILITY_AVX2)
constexpr int kMaxRows = 3;
constexpr int features_of(int rows) {
  return rows == 1 ? 8 : 4;
}
#else
constexpr int kMaxRows = 2;
constexpr int features_of(int) {
  return 4;
}
#endif

// Products that are summed before the sum is rounded to one number: a tile's input and weights stay in L1, the input of
// kRowBlock rows in L2, and the rounding error is that of short chains. 512 and 256 are slower (Zen 3).
constexpr int64_t kDepth = 1024;
constexpr int64_t kTiles = 2;  // tiles of features that one tile of rows passes
constexpr int64_t kRowBlock = 64;

// Fewer multiply-adds than this are not worth a second thread.
constexpr int64_t kSmallProblem = 1 << 18;

template <class W>
struct Operands {
  const Linear& p;
  const LinearForward& tensors;

  const float* input(int64_t row) const { return tensors.input + row * p.input_stride; }
  const W* weight(int64_t feature) const { return static_cast<const W*>(tensors.weight) + feature * p.weight_stride; }
};

// Whether these are the first and the last products.
struct Chunk {
  bool first, last;
};

// `count` is Features, which the compiler sees, or less.
template <int Features>
inline FASTVISION_INLINE void finish(const Linear& p, const LinearForward& tensors, int64_t feature, int64_t count,
                                     const Chunk& chunk, const float (&total)[Features], float* output) {
  float y[Features];
  for (int64_t f = 0; f < count; ++f) y[f] = total[f];
  if (tensors.scale) {
    for (int64_t f = 0; f < count; ++f) y[f] *= tensors.scale[feature + f];
  }
  if (!chunk.first) {
    for (int64_t f = 0; f < count; ++f) y[f] += output[f];
  }
  if (chunk.last && tensors.bias) {
    for (int64_t f = 0; f < count; ++f) y[f] += tensors.bias[feature + f];
  }
  if (chunk.last && p.activation == Activation::relu) {
    for (int64_t f = 0; f < count; ++f) y[f] = 0.f > y[f] ? 0.f : y[f];  // keeps NaN
  }
  for (int64_t f = 0; f < count; ++f) output[f] = y[f];
}

// Adds the products [begin, end) of a tile to its outputs; the last ones add the bias and activate.
template <int Rows, int Features, class W>
void add_tile(const Operands<W>& operands, int64_t row, int64_t feature, int64_t begin, int64_t end) {
  const Linear& p = operands.p;
  const float* x[Rows];
  const W* w[Features];
  Vec sum[Rows][Features];
  unroll<Rows>([&](auto r) FASTVISION_INLINE {
    x[r] = operands.input(row + r);
    unroll<Features>([&](auto f) FASTVISION_INLINE { sum[r][f] = Vec(0.f); });
  });
  const int64_t last = p.out_features - 1;
  unroll<Features>([&](auto f) FASTVISION_INLINE { w[f] = operands.weight(std::min(feature + f, last)); });
  const auto add = [&](const auto& load_x, const auto& load_w) FASTVISION_INLINE {
    Vec values[Rows];
    unroll<Rows>([&](auto r) FASTVISION_INLINE { values[r] = load_x(x[r]); });
    unroll<Features>([&](auto f) FASTVISION_INLINE {
      const Vec weights = load_w(w[f]);
      unroll<Rows>([&](auto r) FASTVISION_INLINE { sum[r][f] = at::vec::fmadd(values[r], weights, sum[r][f]); });
    });
  };
  int64_t k = begin;
  for (; k + kLanes <= end; k += kLanes) {
    const auto load = [&](const auto* from) FASTVISION_INLINE { return load_as_float(from + k, kLanes); };
    add(load, load);
  }
  if (k < end) {
    const auto load = [&](const auto* from) { return load_as_float(from + k, end - k); };
    add(load, load);
  }
  float total[Rows][Features];
  unroll<Rows>([&](auto r) FASTVISION_INLINE { sum_lanes(sum[r], total[r]); });
  const Chunk chunk{begin == 0, end == p.in_features};
  const int64_t features = std::min<int64_t>(Features, p.out_features - feature);
  for (int r = 0; r < Rows; ++r) {
    float* output = operands.tensors.output + (row + r) * p.out_features + feature;
    if (features == Features) {
      finish<Features>(p, operands.tensors, feature, Features, chunk, total[r], output);
    } else {
      finish<Features>(p, operands.tensors, feature, features, chunk, total[r], output);
    }
  }
}

// Rows [begin, end) in tiles as equal as they can be.
template <int Features, class W>
void add_rows(const Operands<W>& operands, int64_t begin, int64_t end, int64_t feature, int64_t end_feature,
              int64_t first, int64_t last) {
  const int64_t tiles = ceil_div(end - begin, kMaxRows);
  for (int64_t tile = 0, row = begin; tile < tiles; ++tile) {
    const int64_t rows = (end - row) / (tiles - tile);
    unroll<kMaxRows>([&](auto i) FASTVISION_INLINE {
      if (rows != i + 1) return;
      for (int64_t f = feature; f < end_feature; f += Features) {
        add_tile<i + 1, Features>(operands, row, f, first, last);
      }
    });
    row += rows;
  }
}

// All rows, features [begin, end).
template <int Features, class W>
void multiply_features(const Operands<W>& operands, int64_t begin, int64_t end) {
  const Linear& p = operands.p;
  for (int64_t row = 0; row < p.rows; row += kRowBlock) {
    const int64_t end_row = std::min(row + kRowBlock, p.rows);
    // Few rows wait for the weights, which are better read in their order.
    const int64_t features_at_once = p.rows <= kMaxRows ? Features : end - begin;
    for (int64_t block = begin; block < end; block += features_at_once) {
      for (int64_t first = 0; first < p.in_features; first += kDepth) {
        const int64_t last = std::min(first + kDepth, p.in_features);
        const int64_t end_block = std::min(block + features_at_once, end);
        for (int64_t feature = block; feature < end_block; feature += kTiles * Features) {
          const int64_t end_feature = std::min(feature + kTiles * Features, end_block);
          add_rows<Features>(operands, row, end_row, feature, end_feature, first, last);
        }
      }
    }
  }
}

template <int Features, class W>
void multiply_tiles(const Operands<W>& operands, Context& context) {
  const Linear& p = operands.p;
  const int64_t tiles = ceil_div(p.out_features, Features);
  const bool small = p.rows * p.in_features * p.out_features < kSmallProblem;
  const int64_t at_once = small ? tiles : 1;
  context.parallel_for(ceil_div(tiles, at_once), [&](int64_t begin, int64_t end) {
    const int64_t step = at_once * Features;
    multiply_features<Features>(operands, begin * step, std::min(end * step, p.out_features));
  });
}

template <class W>
void multiply(const Operands<W>& operands, Context& context) {
  constexpr int kFew = features_of(1), kMany = features_of(kMaxRows);
  const int64_t tallest = ceil_div(operands.p.rows, ceil_div(operands.p.rows, kMaxRows));
  if (features_of(static_cast<int>(tallest)) == kMany) return multiply_tiles<kMany>(operands, context);
  multiply_tiles<kFew>(operands, context);
}

}  // namespace

const char* linear_forward(const Linear& p, const LinearForward& tensors, Context& context) {
  switch (p.weight) {
    case LinearWeight::f32:
      multiply(Operands<float>{p, tensors}, context);
      break;
    case LinearWeight::bf16:
      multiply(Operands<c10::BFloat16>{p, tensors}, context);
      break;
    case LinearWeight::i8:
      multiply(Operands<int8_t>{p, tensors}, context);
      break;
  }
  return nullptr;
}

}  // namespace fastvision

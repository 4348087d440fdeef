#include "conv/cpu/rows.h"

#include <array>
#include <utility>

#include "conv/cpu/epilogue.h"

namespace fastvision {
namespace {

using StoreTile = void (*)(const TileInput&, const DirectPlan&, const TileOutput&);
using MaxPoolTile = void (*)(const TileInput&, const DirectPlan&, const ConvPool2d&, const PooledRow&);

// One kernel per number of columns, 1 to kMaxColumns.
template <int Vectors, bool Relu, int... Columns>
constexpr std::array<StoreTile, kMaxColumns> store_tiles(std::integer_sequence<int, Columns...>) {
  return {&convolve_and_store<Columns + 1, Vectors, Relu>...};
}

// One kernel per number of pooled columns, 1 to kMaxColumns / 2.
template <int Vectors, bool Relu, bool Select, int... Pairs>
constexpr std::array<MaxPoolTile, kMaxColumns / 2> max_pool_tiles(std::integer_sequence<int, Pairs...>) {
  return {&convolve_and_max_pool<2 * (Pairs + 1), Vectors, Relu, Select>...};
}

template <bool Relu>
const auto& store_tiles(int64_t vectors) {
  constexpr auto columns = std::make_integer_sequence<int, kMaxColumns>();
  static constexpr std::array tiles{store_tiles<1, Relu>(columns), store_tiles<2, Relu>(columns)};
  return tiles[vectors - 1];
}

template <bool Relu, bool Select>
const auto& max_pool_tiles(int64_t vectors) {
  constexpr auto pairs = std::make_integer_sequence<int, kMaxColumns / 2>();
  static constexpr std::array tiles{max_pool_tiles<1, Relu, Select>(pairs), max_pool_tiles<2, Relu, Select>(pairs)};
  return tiles[vectors - 1];
}

int64_t vectors_of(const Block& block) {
  return block.channels > kLanes ? 2 : 1;
}

}  // namespace

void store_rows(const DirectPlan& plan, const Block& block, int64_t columns, bool relu, const ConvRows& rows) {
  const auto& tiles = relu ? store_tiles<true>(vectors_of(block)) : store_tiles<false>(vectors_of(block));
  // A tile takes the same stretch of two rows. Of a single row it takes two halves, which share a
  // column if its length is odd.
  const bool single = rows.count == 1;
  const int64_t longest = single ? 2 * kMaxColumns : kMaxColumns;
  const int64_t count = (columns + longest - 1) / longest;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = columns * i / count;
    const int64_t end = columns * (i + 1) / count;
    const int64_t width = single ? (end - begin + 1) / 2 : end - begin;
    const int64_t second = single ? end - width : begin;
    const int64_t below = single ? 0 : 1;
    tiles[width - 1]({{rows.input[0] + begin * plan.column_stride, rows.input[below] + second * plan.column_stride},
                      plan.column_stride,
                      plan.tap_stride,
                      block.weights,
                      plan.block_channels,
                      block.bias},
                     plan,
                     {{rows.output[0] + begin * rows.pixel, rows.output[below] + second * rows.pixel}, rows.pixel});
  }
}

bool has_whole_pairs(const ConvPool2d& p) {
  return p.pool == Pool::max && p.pool_kernel_h == 2 && p.pool_kernel_w == 2 && p.pool_stride_h == 2 &&
         p.pool_stride_w == 2 && p.pool_pad_h == 0 && p.pool_pad_w == 0 && 2 * p.out_h <= p.conv_h &&
         2 * p.out_w <= p.conv_w;
}

bool pools_in_registers(const ConvPool2d& p) {
#if defined(CPU_CAPABILITY_AVX2)
  // A tile of windows has 2 columns, one of outputs 3: 88 against 95 % of the peak, and for long sums
  // the way through memory costs less than that.
  constexpr int64_t kLongSum = 128;
  if (p.in_channels / p.groups * p.kernel_h * p.kernel_w >= kLongSum) return false;
#endif
  return has_whole_pairs(p);
}

void max_pool_row(const ConvPool2d& p, const DirectPlan& plan, const Block& block, const float* input,
                  const PooledRow& out) {
  const int64_t vectors = vectors_of(block);
  const bool relu = p.activation == Activation::relu;
  const auto& tiles = out.codes ? (relu ? max_pool_tiles<true, true>(vectors) : max_pool_tiles<false, true>(vectors))
                                : (relu ? max_pool_tiles<true, false>(vectors) : max_pool_tiles<false, false>(vectors));
  const int64_t row_below = p.stride_h * plan.row_stride;
  constexpr int64_t kTile = kMaxColumns / 2;
  const int64_t count = (p.out_w + kTile - 1) / kTile;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = p.out_w * i / count;
    const int64_t end = p.out_w * (i + 1) / count;
    const float* first = input + 2 * begin * plan.column_stride;
    tiles[end - begin - 1]({{first, first + row_below},
                            plan.column_stride,
                            plan.tap_stride,
                            block.weights,
                            plan.block_channels,
                            block.bias},
                           plan, p,
                           {out.values + begin * out.value_pixel, out.value_pixel,
                            out.codes ? out.codes + begin * out.code_pixel : nullptr, out.code_pixel});
  }
}

}  // namespace fastvision

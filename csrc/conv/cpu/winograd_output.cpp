#include "conv/cpu/winograd_output.h"

#include "conv/cpu/epilogue.h"
#include "conv/cpu/winograd_transform.h"

namespace fastvision::winograd {
namespace {

constexpr int64_t kPooledTile = kTile / 2;

// A tile's 4x4 convolution outputs, without bias, of one vector of channels.
struct TileOutputs {
  Vec value[kTile][kTile];
};

inline FASTVISION_INLINE TileOutputs outputs_of(const float* sums, int64_t point_stride) {
  TileOutputs tile;
  transform_square<kWindow, kWindow, kTile, kTile, &transform_output>(
      [&](int row, int column) FASTVISION_INLINE { return Vec::loadu(sums + (row * kWindow + column) * point_stride); },
      [&](auto row, auto column, const Vec& value) FASTVISION_INLINE { tile.value[row][column] = value; });
  return tile;
}

// Where a tile of convolution outputs goes that is stored as it is.
struct TileTarget {
  float* row[kTile];  // null beyond the last row
  int64_t pixel;
  int64_t columns;
};

template <bool Relu>
void store_tile(const float* sums, int64_t point_stride, const Vec& bias, const TileTarget& target) {
  const TileOutputs tile = outputs_of(sums, point_stride);
  unroll<kTile>([&](auto y) FASTVISION_INLINE {
    if (!target.row[y]) return;
    unroll<kTile>([&](auto x) FASTVISION_INLINE {
      if (x >= target.columns) return;
      const Vec value = tile.value[y][x] + bias;
      (Relu ? max_keeping_second(Vec(0.f), value) : value).store(target.row[y] + x * target.pixel);
    });
  });
}

// Two rows of two pooled outputs, as far as they exist.
struct PooledTile {
  PooledRow row[kPooledTile];
  int64_t rows, columns;
};

// With regard to NaN, through memory.
__attribute__((noinline)) void max_pool_carefully(const ConvPool2d& p, const TileOutputs& tile, const Vec& bias,
                                                  const PooledTile& target) {
  float sums[kTile][kTile * kLanes];
  for (int y = 0; y < kTile; ++y)
    for (int x = 0; x < kTile; ++x) (tile.value[y][x] + bias).store(sums[y] + x * kLanes);
  ConvPool2d part = p;
  part.conv_w = kTile;
  part.out_w = target.columns;
  for (int64_t y = 0; y < target.rows; ++y) {
    const float* rows[] = {sums[2 * y], sums[2 * y + 1]};
    pool_row(part, {rows, {0, 2, 0, 2}, kLanes}, 1, target.row[y]);
  }
}

template <bool Relu, bool Select>
void max_pool_tile(const ConvPool2d& p, const float* sums, int64_t point_stride, const Vec& bias,
                   const PooledTile& target) {
  const TileOutputs tile = outputs_of(sums, point_stride);
  Vec suspect = bias;
  unroll<kTile * kTile>([&](auto i) FASTVISION_INLINE { suspect = suspect + tile.value[i / kTile][i % kTile]; });
  if (__builtin_expect(suspect.has_inf_nan(), false)) return max_pool_carefully(p, tile, bias, target);
  unroll<kPooledTile * kPooledTile>([&](auto i) FASTVISION_INLINE {
    constexpr int y = decltype(i)::value / kPooledTile, x = decltype(i)::value % kPooledTile;
    if (y >= target.rows || x >= target.columns) return;
    const Vec &a = tile.value[2 * y][2 * x], &b = tile.value[2 * y][2 * x + 1];
    const Vec &c = tile.value[2 * y + 1][2 * x], &d = tile.value[2 * y + 1][2 * x + 1];
    const PooledRow& row = target.row[y];
    const Vec best = max_of_window(a, b, c, d) + bias;
    (Relu ? max_keeping_second(Vec(0.f), best) : best).store(row.values + x * row.value_pixel);
    if constexpr (Select) {
      Vec code = winner_of_window(a, b, c, d);
      if constexpr (Relu) code = Vec::blendv(code, Vec(static_cast<float>(kDead)), best <= Vec(0.f));
      code.store(row.codes + x * row.code_pixel);
    }
  });
}

// f(tile, vector) for the tiles of a row.
template <class F>
void for_each_tile(const WinogradPlan& plan, const TileSums& sums, int64_t tile_row, int64_t vectors, F&& f) {
  const float* tile = sums.data + tile_row * plan.tiles_x * vectors * kLanes;
  for (int64_t x = 0; x < plan.tiles_x; ++x) {
    for (int64_t v = 0; v < vectors; ++v, tile += kLanes) f(x, v, tile, Vec::loadu(sums.bias + v * kLanes));
  }
}

void store_tile_row(const WinogradPlan& plan, const TileSums& sums, int64_t tile_row, int64_t vectors, bool relu,
                    const TileTarget& rows) {
  for_each_tile(plan, sums, tile_row, vectors, [&](int64_t x, int64_t v, const float* tile, const Vec& bias) {
    TileTarget target{{}, rows.pixel, rows.columns - x * kTile};
    for (int y = 0; y < kTile; ++y) {
      target.row[y] = rows.row[y] ? rows.row[y] + x * kTile * rows.pixel + v * kLanes : nullptr;
    }
    relu ? store_tile<true>(tile, sums.point_stride, bias, target)
         : store_tile<false>(tile, sums.point_stride, bias, target);
  });
}

void max_pool_tile_row(const ConvPool2d& p, const WinogradPlan& plan, const TileSums& sums, int64_t tile_row,
                       int64_t vectors, const PooledTile& rows) {
  const bool relu = p.activation == Activation::relu, select = rows.row[0].codes;
  const auto kernel = select ? (relu ? max_pool_tile<true, true> : max_pool_tile<false, true>)
                             : (relu ? max_pool_tile<true, false> : max_pool_tile<false, false>);
  for_each_tile(plan, sums, tile_row, vectors, [&](int64_t x, int64_t v, const float* tile, const Vec& bias) {
    PooledTile target{{}, rows.rows, rows.columns - x * kPooledTile};
    target.columns = std::min(target.columns, kPooledTile);
    for (int64_t y = 0; y < rows.rows; ++y) {
      const PooledRow& row = rows.row[y];
      target.row[y] = {row.values + x * kPooledTile * row.value_pixel + v * kLanes, row.value_pixel,
                       select ? row.codes + x * kPooledTile * row.code_pixel + v * kLanes : nullptr, row.code_pixel};
    }
    kernel(p, tile, sums.point_stride, bias, target);
  });
}

// The output rows of each row of tiles, as soon as it is done.
void write_pooled_tiles(const ConvPool2d& p, const WinogradPlan& plan, const Band& band, const OutputBlock& output,
                        const TileSums& sums, int64_t vectors, float* scratch) {
  const int64_t row_size = p.out_w * plan.direct.block_channels;
  for (int64_t y = band.first; y < band.last; y += kPooledTile) {
    PooledTile rows{{}, std::min(kPooledTile, band.last - y), p.out_w};
    for (int64_t i = 0; i < rows.rows; ++i) {
      rows.row[i] = output.row(y + i, scratch + 2 * i * row_size, scratch + (2 * i + 1) * row_size);
    }
    max_pool_tile_row(p, plan, sums, (y - band.first) / kPooledTile, vectors, rows);
    for (int64_t i = 0; i < rows.rows; ++i) output.emit(y + i, rows.row[i]);
  }
}

void write_plain_tiles(const ConvPool2d& p, const WinogradPlan& plan, const Band& band, const OutputBlock& output,
                       const TileSums& sums, int64_t vectors, float* scratch) {
  const int64_t row_size = p.out_w * plan.direct.block_channels;
  for (int64_t y = band.first; y < band.last; y += kTile) {
    const int64_t count = std::min<int64_t>(kTile, band.last - y);
    PooledRow rows[kTile];
    TileTarget target{{}, 0, p.out_w};
    for (int64_t i = 0; i < count; ++i) {
      rows[i] = output.row(y + i, scratch + i * row_size, nullptr);
      target.row[i] = rows[i].values;
      target.pixel = rows[i].value_pixel;
    }
    store_tile_row(plan, sums, (y - band.first) / kTile, vectors, p.activation == Activation::relu, target);
    for (int64_t i = 0; i < count; ++i) output.emit(y + i, rows[i]);
  }
}

// All convolution rows of the band first: windows may cross tiles.
void write_through_rows(const ConvPool2d& p, const WinogradPlan& plan, const Band& band, const OutputBlock& output,
                        const TileSums& sums, int64_t vectors, float* scratch) {
  const int64_t pixel = plan.direct.block_channels;
  const int64_t row_size = plan.tiles_x * kTile * pixel;
  for (int64_t tile_row = 0; tile_row < band.tile_rows; ++tile_row) {
    TileTarget target{{}, pixel, plan.tiles_x * kTile};
    for (int64_t i = 0; i < kTile; ++i) target.row[i] = scratch + (tile_row * kTile + i) * row_size;
    store_tile_row(plan, sums, tile_row, vectors, /*relu=*/false, target);
  }
  float* values = scratch + plan.band_tile_rows * kTile * row_size;
  for (int64_t y = band.first; y < band.last; ++y) {
    const PoolSpan span = pool_span(y, p.pool_kernel_h, p.pool_stride_h, p.pool_pad_h, p.conv_h, p.count_include_pad);
    const float* rows[kMaxSelectableMaxWindow];
    for (int64_t r = span.begin; r < span.end; ++r) rows[r - span.begin] = scratch + (r - band.rows.begin) * row_size;
    const PooledRow row = output.row(y, values, values + p.out_w * pixel);
    pool_row(p, {rows, span, pixel}, vectors, row);
    output.emit(y, row);
  }
}

}  // namespace

int64_t band_output_size(const ConvPool2d& p, const WinogradPlan& plan) {
  const int64_t conv_rows = plan.band_tile_rows * kTile * plan.tiles_x * kTile;
  return (conv_rows + 4 * p.out_w) * plan.direct.block_channels;
}

void write_band(const ConvPool2d& p, const WinogradPlan& plan, const Band& band, const OutputBlock& output,
                const TileSums& sums, int64_t vectors, float* scratch) {
  const bool selects = output.row(band.first, scratch, scratch).codes;
  const auto write = plan.pools_tiles                   ? write_pooled_tiles
                     : p.pool == Pool::none && !selects ? write_plain_tiles
                                                        : write_through_rows;
  write(p, plan, band, output, sums, vectors, scratch);
}

}  // namespace fastvision::winograd

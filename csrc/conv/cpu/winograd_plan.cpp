#include <algorithm>

#include "conv/cpu/rows.h"
#include "conv/cpu/winograd.h"

namespace fastvision {
namespace {

using namespace winograd;

// Tiles of a unit: enough that weights, which stream through once per unit, cost little; few enough that the
// transformed inputs stay in L2.
constexpr int64_t kMinTiles = 24, kMaxTiles = 56;
constexpr int64_t kInputBytes = 512 * 1024;

// All transformed inputs may exist at once where they are small, or smaller than the transformed weights and still in
// L3. Each block's weights are then transformed just before they are used: they never exist all at once.
constexpr int64_t kSmallBytes = 2 << 20, kL3Bytes = 16 << 20;

// Pieces of work that a problem is cut into if it has fewer units, so that more threads than one find something to do.
constexpr int64_t kPieces = 4;

// Winograd needs channels, or its transforms cost more than the products they save, and its rounding error, which does
// not grow with the channels, is more than 2.3 times that of a short sum (with AVX-512 stock's sums are more exact: 8
// channels 2.6 times, 16 channels 1.9).
#if defined(CPU_CAPABILITY_AVX512)
constexpr int64_t kMinWinogradChannels = 16;
#else
constexpr int64_t kMinWinogradChannels = 8;
#endif

// Output rows whose windows lie in this many rows of tiles.
int64_t rows_of(const ConvPool2d& p, int64_t tile_rows) {
  return std::max<int64_t>(0, (kTile * tile_rows - p.pool_kernel_h) / p.pool_stride_h + 1);
}

// Windows that overlap make bands compute some rows twice: bands are high enough that this is an eighth at most.
int64_t min_tile_rows(const ConvPool2d& p) {
  int64_t rows = ceil_div(p.pool_kernel_h, kTile);
  while (rows_of(p, rows) * p.pool_stride_h * 8 < kTile * rows * 7) ++rows;
  return rows;
}

}  // namespace

int64_t WinogradPlan::point_stride() const {
  return unit_tiles() * pixel + kPointPadding;
}

bool winograd_applies(const ConvPool2d& p) {
  constexpr int64_t kMaxPoolKernel = 3;  // higher windows need bands that do not stay in cache
  return p.allow_winograd && p.kernel_h == 3 && p.kernel_w == 3 && p.stride_h == 1 && p.stride_w == 1 &&
         p.dilation_h == 1 && p.dilation_w == 1 && p.pool_kernel_h <= kMaxPoolKernel &&
         p.pool_stride_h <= p.pool_kernel_h;
}

// Time of direct / Winograd, one core of a Zen 3 with AVX2, 3x3: 1.4 to 3.2 from 8>32 @56 to 512>512 @14, batch 1 and
// 8; 128>128 @7 1.1 to 2.0. 64>32 @6 0.84: nearly half of its tiles lies outside the image.
bool winograd_is_faster(const ConvPool2d& p) {
  const int64_t tiles = ceil_div(p.conv_h, kTile) * ceil_div(p.conv_w, kTile);
  return p.in_channels / p.groups >= kMinWinogradChannels && p.conv_h * p.conv_w * 5 >= tiles * kTile * kTile * 3;
}

WinogradPlan make_winograd_plan(const ConvPool2d& p, int64_t lanes) {
  WinogradPlan plan{};
  plan.direct = make_direct_plan(p, lanes, InputChoice::interleaved_strip);
  plan.pools_tiles = has_whole_pairs(p);
  plan.pixel = ceil_div(plan.direct.group_in_channels, lanes) * lanes;
  plan.tiles_x = ceil_div(plan.pools_tiles ? 2 * p.out_w : p.conv_w, kTile);

  const int64_t tiles = std::clamp(kInputBytes / (4 * kPoints * plan.pixel), kMinTiles, kMaxTiles);
  const int64_t wanted = std::max({min_tile_rows(p), tiles / plan.tiles_x, int64_t{1}});
  plan.band_rows = std::min(rows_of(p, wanted), p.out_h);
  plan.bands = ceil_div(p.out_h, plan.band_rows);
  plan.band_tile_rows = std::min(wanted, ceil_div((plan.band_rows - 1) * p.pool_stride_h + p.pool_kernel_h, kTile));
  const int64_t all_bands = p.batch * plan.bands;
  plan.unit_bands = std::clamp<int64_t>(tiles / plan.band_tiles(), 1, all_bands);
  plan.units = ceil_div(all_bands, plan.unit_bands);
  const int64_t input_bytes = 4 * plan.units * p.groups * kPoints * plan.point_stride();
  const int64_t weight_bytes = 4 * kPoints * plan.direct.group_in_channels * p.out_channels;
  plan.weights_inside = input_bytes <= std::clamp(weight_bytes, kSmallBytes, kL3Bytes);
  plan.block_sets = std::min(plan.direct.blocks, ceil_div(kPieces, plan.units * p.groups));

  plan.direct.strip_w = kTile * plan.tiles_x + kWindow - kTile;
  plan.direct.row_stride = plan.direct.strip_w * plan.direct.group_in_channels;
  plan.direct.max_strip_rows = kTile * plan.band_tile_rows + kWindow - kTile;
  return plan;
}

}  // namespace fastvision

// 3x3 convolution with stride 1 by Winograd's F(4x4, 3x3): a quarter of the multiplications.
//
// Bands of output rows are cut into tiles of 4x4 convolution outputs. All tiles of a unit of work are transformed, then
// for each block of output channels 36 matrix products follow, one per evaluation point, and the way back, with the
// pool while the tile is in registers or L1.
#pragma once

#include "conv/cpu/finish.h"
#include "conv/cpu/plan.h"
#include "conv/cpu/strip.h"
#include "conv/cpu/weights.h"
#include "core/context.h"

namespace fastvision {

namespace winograd {

constexpr int kTile = 4;                    // outputs of a tile in each dimension
constexpr int kTaps = 3;                    // of the kernel
constexpr int kWindow = kTile + kTaps - 1;  // inputs of a tile, and evaluation points
constexpr int kPoints = kWindow * kWindow;

// Added to the distance from point to point, in floats: points must not share cache sets.
constexpr int64_t kPointPadding = 16;

}  // namespace winograd

struct WinogradPlan {
  DirectPlan direct;  // channel blocks, and the strip that the source packs
  bool pools_tiles;   // 2x2 max-pool with stride 2: windows do not cross tiles
  int64_t tiles_x;    // tiles in a row
  int64_t pixel;      // channels of a transformed tile: whole vectors
  int64_t band_rows;  // output rows of a band
  int64_t bands;      // in an image
  int64_t band_tile_rows;
  int64_t unit_bands;  // bands whose tiles are multiplied together
  int64_t units;
  int64_t block_sets;   // the blocks of a unit are cut into this many pieces of work
  bool weights_inside;  // all inputs are transformed first, then each block's weights just before they are used

  int64_t band_tiles() const { return band_tile_rows * tiles_x; }
  int64_t unit_tiles() const { return unit_bands * band_tiles(); }
  int64_t point_stride() const;  // from point to point of a unit's transformed inputs, in floats
};

bool winograd_applies(const ConvPool2d& problem);

// Than the direct kernel, where it applies.
bool winograd_is_faster(const ConvPool2d& problem);

WinogradPlan make_winograd_plan(const ConvPool2d& problem, int64_t lanes);

struct WinogradConvolution {
  const ConvPool2d& problem;
  const WinogradPlan& plan;
  const StripSource& source;  // of plan.direct
  void* output;
  uint8_t* selection;  // null in inference
  const Finish& finish;
  bool keeps_weights;  // for the next call
};

void run(const WinogradConvolution& work, const Layer& layer, Context& context);

}  // namespace fastvision

// Decisions of the launchers that need no GPU: the shape of a block's tile of outputs, the split of
// a long product, and which taps reach which pixels of a strided convolution's input.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "conv/conv.h"
#include "conv/cuda/pool_epilogue.cuh"

namespace fastvision::conv_cuda {

// What a tile costs: the rows of the product, used or not, and the 32-byte sectors of a channel's plane that
// it touches. Patches follow each other along a row, or down the image if one is as wide as the image.
inline int64_t tile_cost(const TileShape& tile, bool full_width) {
  constexpr int kRowsPerSector = 2;  // a guess: what a sector costs in rows of the product
  constexpr int kPixelsPerSector = 8;
  constexpr int kBrokenSectors = 2;  // at the ends of a line
  const int lines = full_width ? tile.patches * tile.conv_h : tile.conv_h;
  const int line = full_width ? tile.conv_w : tile.patches * tile.conv_w;
  return kTileRows + kRowsPerSector * lines * (line / kPixelsPerSector + kBrokenSectors);
}

// The cheapest tiles for an output.
inline TileShape choose_tile(const PoolEpilogue& e) {
  TileShape best{};
  int64_t lowest = INT64_MAX;
  for (int w = 1; w <= e.out_w; ++w) {
    const int conv_w = (w - 1) * e.stride_w + e.kernel_w;
    if (conv_w > kTileRows) break;
    for (int h = 1; h <= e.out_h; ++h) {
      const int conv_h = (h - 1) * e.stride_h + e.kernel_h;
      if (conv_h * conv_w > kTileRows) break;
      const TileShape tile{kTileRows / (conv_h * conv_w), h, w, conv_h, conv_w};
      const int64_t patches = e.batch * ceil_div(e.out_h, h) * ceil_div(e.out_w, w);
      const int64_t cost = ceil_div(patches, tile.patches) * tile_cost(tile, w == e.out_w);
      if (cost < lowest) {
        lowest = cost;
        best = tile;
      }
    }
  }
  return best;
}

// How many parts the depth of a product with `tiles` tiles is cut into, so that every multiprocessor has work.
struct Split {
  int64_t parts, depth;  // of one part
};

inline Split choose_split(int64_t depth, int64_t tiles, int64_t tile_depth, int multiprocessors) {
  constexpr int64_t kBlocksPerMultiprocessor = 4;
  constexpr int64_t kShortestPart = 512;
  constexpr int64_t kLongestPart = 1 << 30;  // counted in 32 bits
  constexpr int64_t kMostParts = 65535;      // grid size in y
  if (depth == 0 || tiles == 0) return {0, tile_depth};
  const int64_t wanted = ceil_div(kBlocksPerMultiprocessor * multiprocessors, tiles);
  const int64_t parts = std::clamp(wanted, ceil_div(depth, kLongestPart),
                                   std::clamp(ceil_div(depth, kShortestPart), int64_t{1}, kMostParts));
  const int64_t part = round_up(ceil_div(depth, parts), tile_depth);
  return {ceil_div(depth, part), part};
}

// Along one axis, the input positions that are `residue` modulo the stride when counted from the start
// of the padding. All of them meet the same taps; seen from them alone the gradient is a convolution
// of stride 1 over the gradient of the output:
//   grad_input[first + i * stride] = sum over t of grad_conv[i + start + t * tap_step] * weight[first_tap + t *
//   tap_stride]
struct Phase {
  int first, count;
  int first_tap, tap_stride, taps;
  int start, tap_step;
};

inline Phase phase_of(int residue, int size, int kernel, int stride, int dilation, int pad) {
  Phase phase{};
  const int steps = static_cast<int>(ceil_div(std::max(pad - residue, 0), stride));
  phase.first = steps * stride + residue - pad;
  phase.count = phase.first < size ? (size - 1 - phase.first) / stride + 1 : 0;
  phase.tap_stride = stride / std::gcd(stride, dilation);
  while (phase.first_tap < kernel && static_cast<int64_t>(phase.first_tap) * dilation % stride != residue) {
    ++phase.first_tap;
  }
  phase.taps = static_cast<int>(ceil_div(kernel - phase.first_tap, phase.tap_stride));
  phase.start = steps + (residue - phase.first_tap * dilation) / stride;
  phase.tap_step = -dilation / std::gcd(stride, dilation);
  return phase;
}

}  // namespace fastvision::conv_cuda

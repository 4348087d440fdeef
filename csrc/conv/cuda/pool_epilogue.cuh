// From sums to outputs: bias, activation and pooling, on a tile of the convolution's output that lies
// in shared memory and never gets into global memory.
#pragma once

#include "conv/conv.h"
#include "conv/cuda/multiply.cuh"

namespace fastvision::conv_cuda {

// The output is cut into patches of `out_h` x `out_w`, numbered through rows and images; a patch takes
// `conv_h` x `conv_w` outputs of the convolution. A block computes `patches` successive ones, whose
// convolution outputs are the rows of its tile, at most kTileRows.
struct TileShape {
  int patches, out_h, out_w;
  int conv_h, conv_w;
};

// What follows the product. Sizes are those of ConvPool2d, in 32 bits.
struct PoolEpilogue {
  void* output;
  const void* bias;    // may be null
  uint8_t* selection;  // null in inference
  ImageStrides strides;
  Activation activation;
  Pool pool;
  bool count_include_pad;
  int batch, out_h, out_w, columns;
  int conv_h, conv_w;
  int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
  TileShape tile;
  int patches_h, patches_w;  // in an image

  __device__ __host__ bool columns_adjacent() const { return strides.c == 1; }
};

// Where a patch is: its image, which is beyond the batch for a patch beyond the last, and its first output.
struct Patch {
  int64_t image;
  int out_h, out_w;

  __device__ Patch(const PoolEpilogue& p, int64_t number) {
    out_w = static_cast<int>(number % p.patches_w) * p.tile.out_w;
    out_h = static_cast<int>(number / p.patches_w % p.patches_h) * p.tile.out_h;
    image = number / p.patches_w / p.patches_h;
  }
};

// One pooled output of the tile, the same for all its channels.
struct PooledPixel {
  int64_t output;    // offset of channel 0
  int64_t position;  // in (batch, out_h, out_w); -1 outside
  float divisor;
  int16_t first_row;  // tile row of the first convolution output in the window
  int16_t rows, columns;
  int16_t first_tap_row, first_tap_column;
};

__device__ inline PooledPixel pooled_pixel(const PoolEpilogue& p, int64_t first_patch, int index) {
  const int x = index % p.tile.out_w, y = index / p.tile.out_w % p.tile.out_h;
  const int number = index / p.tile.out_w / p.tile.out_h;
  const Patch patch(p, first_patch + number);
  const int out_y = patch.out_h + y, out_x = patch.out_w + x;
  if (number >= p.tile.patches || patch.image >= p.batch || out_y >= p.out_h || out_x >= p.out_w) {
    return {0, -1, 1, 0, 0, 0, 0, 0};
  }
  const PoolSpan h = pool_span(out_y, p.kernel_h, p.stride_h, p.pad_h, p.conv_h, p.count_include_pad);
  const PoolSpan w = pool_span(out_x, p.kernel_w, p.stride_w, p.pad_w, p.conv_w, p.count_include_pad);
  PooledPixel pixel;
  pixel.output = patch.image * p.strides.n + out_y * p.strides.h + out_x * p.strides.w;
  pixel.position = (patch.image * p.out_h + out_y) * p.out_w + out_x;
  pixel.divisor = static_cast<float>(h.divisor * w.divisor);
  const int row = y * p.stride_h + static_cast<int>(h.first_tap);
  const int column = x * p.stride_w + static_cast<int>(w.first_tap);
  pixel.first_row = static_cast<int16_t>((number * p.tile.conv_h + row) * p.tile.conv_w + column);
  pixel.rows = static_cast<int16_t>(h.end - h.begin);
  pixel.columns = static_cast<int16_t>(w.end - w.begin);
  pixel.first_tap_row = static_cast<int16_t>(h.first_tap);
  pixel.first_tap_column = static_cast<int16_t>(w.first_tap);
  return pixel;
}

struct Pooled {
  float value;
  uint8_t selected;
};

// ReLU passes NaN on, as in PyTorch; neither it nor any other value but those <= 0 stops the gradient.
__device__ inline bool relu_stops(float value) {
  return value <= 0.0f;
}
__device__ inline float relu(float value) {
  return relu_stops(value) ? 0.0f : value;
}

// `window` is the first convolution output of the window, `row` and `column` the distances to the next.
__device__ inline Pooled max_pool(const PoolEpilogue& p, const PooledPixel& pixel, const float* window, int row,
                                  int column, float bias) {
  float best = window[0] + bias;
  int winner = 0;
  for (int y = 0; y < pixel.rows; ++y) {
    for (int x = 0; x < pixel.columns; ++x) {
      const float value = window[y * row + x * column] + bias;
      if (value > best || value != value) {  // as max_pool2d: the first of equals, the last NaN
        best = value;
        winner = y * p.kernel_w + x;
      }
    }
  }
  winner += pixel.first_tap_row * p.kernel_w + pixel.first_tap_column;
  if (p.activation == Activation::none) return {best, static_cast<uint8_t>(winner)};
  return {relu(best), relu_stops(best) ? kDead : static_cast<uint8_t>(winner)};
}

__device__ inline Pooled average_pool(const PoolEpilogue& p, const PooledPixel& pixel, const float* window, int row,
                                      int column, float bias) {
  float sum = 0.0f;
  unsigned passes = 0;
  for (int y = 0; y < pixel.rows; ++y) {
    for (int x = 0; x < pixel.columns; ++x) {
      const float value = window[y * row + x * column] + bias;
      const bool stopped = p.activation == Activation::relu && relu_stops(value);
      sum += stopped ? 0.0f : value;
      const int tap = (pixel.first_tap_row + y) * p.kernel_w + pixel.first_tap_column + x;
      if (!stopped) passes |= 1u << (tap % 32);  // larger windows are never asked for their selection
    }
  }
  return {sum / pixel.divisor, static_cast<uint8_t>(passes)};
}

__device__ inline Pooled no_pool(const PoolEpilogue& p, const float* window, float bias) {
  const float value = window[0] + bias;
  if (p.activation == Activation::none) return {value, 0};
  return {relu(value), relu_stops(value) ? kDead : uint8_t{0}};
}

// Writes the outputs of one slice. Neighbouring threads take neighbouring elements of the output:
// channels, or pixels of one channel.
template <class Element>
__device__ void pool_slice(const PoolEpilogue& p, const PooledPixel* pixels, int first_column, const float* results,
                           SliceLayout layout) {
  const int pixel_count = p.tile.patches * p.tile.out_h * p.tile.out_w;
  for (int i = static_cast<int>(threadIdx.x); i < pixel_count * kSliceColumns; i += kThreads) {
    const bool by_column = p.columns_adjacent();
    const int slice_column = by_column ? i % kSliceColumns : i / pixel_count;
    const PooledPixel pixel = pixels[by_column ? i / kSliceColumns : i % pixel_count];
    const int column = first_column + slice_column;
    if (pixel.position < 0 || column >= p.columns) continue;
    const float bias = p.bias == nullptr ? 0.0f : gpu::to_float(static_cast<const Element*>(p.bias)[column]);
    const float* window = results + pixel.first_row * layout.row_stride + slice_column * layout.column_stride;
    const int next_row = p.tile.conv_w * layout.row_stride, next_column = layout.row_stride;
    const Pooled pooled = p.pool == Pool::max   ? max_pool(p, pixel, window, next_row, next_column, bias)
                          : p.pool == Pool::avg ? average_pool(p, pixel, window, next_row, next_column, bias)
                                                : no_pool(p, window, bias);
    static_cast<Element*>(p.output)[pixel.output + column * p.strides.c] = gpu::from_float<Element>(pooled.value);
    if (p.selection != nullptr) p.selection[pixel.position * p.columns + column] = pooled.selected;
  }
}

}  // namespace fastvision::conv_cuda

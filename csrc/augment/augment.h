// The problem that the augment family solves, as a plain struct.
//
// Each image has a matrix M of two rows and three columns in double precision. The result at row y and column x is the
// image at row M00 y + M01 x + M02 and column M10 y + M11 x + M12, the centres of pixels lying at whole numbers, times
// the channel's scale, plus its offset. A coordinate that is beyond the image is treated as scipy.ndimage does
// (augment/coordinates.h).
#pragma once

#include <cstdint>

#include "core/types.h"

namespace fastvision {

enum class Interpolation : uint8_t { nearest, bilinear };
enum class Fill : uint8_t { constant, nearest, reflect, wrap };
enum class PixelType : uint8_t { u8, f32 };

struct AffineResampling {
  static constexpr int kMaxChannels = 16;
  // Coordinates are fp32: up to here they are right to 1/1000 of a pixel.
  static constexpr int64_t kMaxSide = 16384;

  PixelType pixels = PixelType::u8;
  Interpolation interpolation = Interpolation::bilinear;
  Fill fill = Fill::nearest;
  float cval = 0;  // of Fill::constant, in the image's units
  int64_t batch = 0, channels = 0, height = 0, width = 0;
  ImageStrides image_strides{};   // no pixel of an image is 2^31 or more elements behind its first one
  ImageStrides result_strides{};  // dense, contiguous or channels_last
  float scale[kMaxChannels]{}, offset[kMaxChannels]{};
};

}  // namespace fastvision

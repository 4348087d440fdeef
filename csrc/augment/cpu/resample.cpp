// One pass from images to the network's input. A vector of pixels has its coordinates computed side by side. Where one
// of them is outside the image all are folded into it, so that nothing branches by pixel.
#include "augment/cpu/resample.h"

#include "augment/cpu/pixels.h"
#include "core/integers.h"

namespace fastvision {
namespace {

// Rows of the result that are made tile by tile: what a tile of a turned image is read from stays in L1.
constexpr int64_t kBandRows = 32;

struct Row {
  const AffineResampling& p;
  const double* matrix;
  int64_t y;
  float* result;
};

// The values of one vector's channels on their way out.
class Output {
 public:
  Output(const Row& row, int64_t x, int64_t count) : row_(row), x_(x), count_(count) {}

  FASTVISION_INLINE void put(int64_t channel, const Vec& value) const {
    const AffineResampling& p = row_.p;
    const Vec scaled = VectorMath::fma(value, Vec(p.scale[channel]), Vec(p.offset[channel]));
    float* to = row_.result + channel * p.result_strides.c + x_ * p.result_strides.w;
    if (p.result_strides.w == 1) {
      if (count_ == kLanes) {
        scaled.store(to);
      } else {
        scaled.store(to, static_cast<int>(count_));
      }
    } else {
      float lanes[kLanes];
      scaled.store(lanes);
      for (int64_t i = 0; i < count_; ++i) to[i * p.result_strides.w] = lanes[i];
    }
  }

 private:
  const Row& row_;
  int64_t x_, count_;
};

template <Interpolation interpolation, class Pixels>
FASTVISION_INLINE inline void resample_vector(const Row& row, const Pixels& pixels, const Vec& from_y,
                                              const Vec& from_x, const Output& out) {
  Vec y = from_y, x = from_x;
  const AffineResampling& p = row.p;
  const auto last_y = static_cast<float>(p.height - 1), last_x = static_cast<float>(p.width - 1);
  const Vec inside = is_inside<VectorMath>(y, last_y) & is_inside<VectorMath>(x, last_x);
  const bool folds = VectorMath::any(inside ^ VectorMath::from_bits(IntVec(-1)));
  const bool fills = folds && p.fill == Fill::constant;
  if (fills && !VectorMath::any(inside)) {
    for (int64_t channel = 0; channel < p.channels; ++channel) out.put(channel, Vec(p.cval));
    return;
  }
  if (folds) {
    y = fold<ExactVectorMath>(y, last_y, p.fill);
    x = fold<ExactVectorMath>(x, last_x, p.fill);
  }
  const auto put = [&](int64_t channel, const Vec& value) FASTVISION_INLINE {
    out.put(channel, fills ? VectorMath::select(inside, value, Vec(p.cval)) : value);
  };
  if constexpr (interpolation == Interpolation::bilinear) {
    pixels.mean(neighbours<VectorMath>(y, last_y), neighbours<VectorMath>(x, last_x), put);
  } else {
    pixels.pixel(nearest_pixel<VectorMath>(y), nearest_pixel<VectorMath>(x), put);
  }
}

template <Interpolation interpolation, class Pixels>
void resample_tile(const Row& row, int64_t tile, const Pixels& pixels) {
  const Vec first_lanes = Vec::arange(0.f, 1.f);
  const Ramp y = ramp(row.matrix, row.y, tile), x = ramp(row.matrix + 3, row.y, tile);
  const int64_t width = std::min(kTileWidth, row.p.width - tile);
  for (int64_t i = 0; i < width; i += kLanes) {
    const Vec lanes = first_lanes + Vec(static_cast<float>(i));
    resample_vector<interpolation>(row, pixels, ExactVectorMath::fma(lanes, Vec(y.step), Vec(y.start)),
                                   ExactVectorMath::fma(lanes, Vec(x.step), Vec(x.start)),
                                   Output(row, tile + i, std::min(kLanes, width - i)));
  }
}

// A turned image is read in an order that the processor does not foresee.
void read_ahead(const AffineResampling& p, const AffineResamplingArrays& arrays, int64_t n) {
  constexpr int64_t kMaxBytes = 512 << 10, kLine = 64;  // what L2 holds
  const int64_t size = p.pixels == PixelType::u8 ? 1 : 4;
  const ImageStrides& s = p.image_strides;
  const int64_t last = (p.channels - 1) * s.c + (p.height - 1) * s.h + (p.width - 1) * s.w;
  if (last * size > kMaxBytes) return;
  const char* image = static_cast<const char*>(arrays.images) + n * s.n * size;
  for (int64_t i = 0; i <= last * size; i += kLine) __builtin_prefetch(image + i, 0, 2);
}

template <Interpolation interpolation, class Pixels>
void resample(const AffineResampling& p, const AffineResamplingArrays& arrays, Context& context) {
  const int64_t bands = ceil_div(p.height, kBandRows);
  context.parallel_for(p.batch * bands, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / bands, first = i % bands * kBandRows, last = std::min(first + kBandRows, p.height);
      const Pixels pixels(p, arrays.images, n);
      if (i == begin || first == 0) read_ahead(p, arrays, n);
      float* result = arrays.result + n * p.result_strides.n;
      for (int64_t tile = 0; tile < p.width; tile += kTileWidth) {
        for (int64_t y = first; y < last; ++y) {
          const Row row{p, arrays.matrices + 6 * n, y, result + y * p.result_strides.h};
          resample_tile<interpolation>(row, tile, pixels);
        }
      }
    }
  });
}

template <Interpolation interpolation>
void resample(const AffineResampling& p, const AffineResamplingArrays& arrays, Context& context) {
  if (PackedPixels::suit(p)) return resample<interpolation, PackedPixels>(p, arrays, context);
  if (p.pixels == PixelType::u8) return resample<interpolation, StridedPixels<uint8_t>>(p, arrays, context);
  resample<interpolation, StridedPixels<float>>(p, arrays, context);
}

}  // namespace

const char* affine_resample(const AffineResampling& p, const AffineResamplingArrays& arrays, Context& context) {
  if (p.interpolation == Interpolation::bilinear) {
    resample<Interpolation::bilinear>(p, arrays, context);
  } else {
    resample<Interpolation::nearest>(p, arrays, context);
  }
  return nullptr;
}

}  // namespace fastvision

// One pass from images to the network's input: a thread takes a pixel of the result, all its channels.
#include "augment/coordinates.h"
#include "augment/cuda/kernels.h"
#include "core/gpu.h"
#include "core/integers.h"

namespace fastvision {
namespace augment_cuda {
namespace {

constexpr int kThreads = 256;

struct Resampling {
  AffineResampling p;
  AffineResamplingArrays arrays;
};

// The coordinate of a pixel of the result.
__device__ __forceinline__ float coordinate(const double* row, int64_t y, int64_t x) {
  const int64_t tile = x / kTileWidth * kTileWidth;
  const Ramp r = ramp(row, y, tile);
  return ScalarMath::fma(static_cast<float>(x - tile), r.step, r.start);
}

template <class T>
__device__ __forceinline__ float mean(const T* plane, int64_t below, int64_t beside, float weight_y, float weight_x) {
  const float upper = blend<ScalarMath>(static_cast<float>(plane[0]), static_cast<float>(plane[beside]), weight_x);
  const float lower =
      blend<ScalarMath>(static_cast<float>(plane[below]), static_cast<float>(plane[below + beside]), weight_x);
  return blend<ScalarMath>(upper, lower, weight_y);
}

template <class T, Interpolation interpolation>
__global__ void __launch_bounds__(kThreads) resample(const Resampling r) {
  const AffineResampling& p = r.p;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= p.batch * p.height * p.width) return;
  const int64_t row = index / p.width, x = index - row * p.width;
  const int64_t n = row / p.height, y = row - n * p.height;

  const auto last_y = static_cast<float>(p.height - 1), last_x = static_cast<float>(p.width - 1);
  const double* matrix = r.arrays.matrices + 6 * n;
  const float cy = coordinate(matrix, y, x), cx = coordinate(matrix + 3, y, x);
  const bool inside = is_inside<ScalarMath>(cy, last_y) && is_inside<ScalarMath>(cx, last_x);
  const bool fills = p.fill == Fill::constant && !inside;
  const float from_y = fold<ScalarMath>(cy, last_y, p.fill), from_x = fold<ScalarMath>(cx, last_x, p.fill);

  const ImageStrides &from = p.image_strides, &to = p.result_strides;
  const T* plane = static_cast<const T*>(r.arrays.images) + n * from.n;
  float* result = r.arrays.result + n * to.n + y * to.h + x * to.w;
  if constexpr (interpolation == Interpolation::bilinear) {
    const auto rows = neighbours<ScalarMath>(from_y, last_y), columns = neighbours<ScalarMath>(from_x, last_x);
    plane += rows.first * from.h + columns.first * from.w;
    const int64_t below = p.height > 1 ? from.h : 0, beside = p.width > 1 ? from.w : 0;
    for (int c = 0; c < p.channels; ++c, plane += from.c, result += to.c) {
      const float value = fills ? p.cval : mean(plane, below, beside, rows.weight, columns.weight);
      *result = ScalarMath::fma(value, p.scale[c], p.offset[c]);
    }
  } else {
    plane += nearest_pixel<ScalarMath>(from_y) * from.h + nearest_pixel<ScalarMath>(from_x) * from.w;
    for (int c = 0; c < p.channels; ++c, plane += from.c, result += to.c) {
      *result = ScalarMath::fma(fills ? p.cval : static_cast<float>(*plane), p.scale[c], p.offset[c]);
    }
  }
}

template <class T>
const char* launch(const Resampling& r, Context& context) {
  const dim3 grid(static_cast<unsigned>(ceil_div(r.p.batch * r.p.height * r.p.width, kThreads)));
  if (r.p.interpolation == Interpolation::bilinear) {
    return gpu::launch<resample<T, Interpolation::bilinear>>(grid, dim3(kThreads), context.stream(), r);
  }
  return gpu::launch<resample<T, Interpolation::nearest>>(grid, dim3(kThreads), context.stream(), r);
}

const char* affine_resample(const AffineResampling& p, const AffineResamplingArrays& arrays, Context& context) {
  if (p.batch * p.height * p.width == 0) return nullptr;
  return p.pixels == PixelType::u8 ? launch<uint8_t>({p, arrays}, context) : launch<float>({p, arrays}, context);
}

}  // namespace
}  // namespace augment_cuda

const AugmentKernels cuda_augment_kernels{&augment_cuda::affine_resample};

}  // namespace fastvision

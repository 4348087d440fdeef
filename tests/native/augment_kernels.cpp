// Runs the augment kernels of the library it is linked with, without torch and Python: one thread against three, and
// against plain loops, for images in memory of exactly the size needed and matrices of any numbers.
//
//   augment_kernels PROBLEMS SEED   exit status 1 and a line for each random problem that differs
#include <limits>

#include "augment/coordinates.h"
#include "augment/kernels.h"
#include "core/kernel_library.h"
#include "host_context.h"
#include "random_tensor.h"

namespace fastvision {
namespace {

struct Problem {
  AffineResampling p;
  std::vector<uint8_t> bytes;
  std::vector<float> floats, result;
  std::vector<double> matrices;

  explicit Problem(Random& random) {
    p.pixels = random.coin() ? PixelType::u8 : PixelType::f32;
    p.interpolation = random.coin() ? Interpolation::bilinear : Interpolation::nearest;
    p.fill = static_cast<Fill>(random.between(0, 3));
    p.cval = static_cast<float>(random.between(0, 255));
    p.batch = random.between(1, 3);
    p.channels = random.coin() ? 3 : random.between(1, AffineResampling::kMaxChannels);
    p.height = random.between(1, 40);
    p.width = random.coin() ? random.between(1, 9) : random.between(60, 140);
    p.image_strides = dense_strides(random.coin(), p.channels, p.height, p.width);
    p.result_strides = dense_strides(random.coin(), p.channels, p.height, p.width);
    for (int64_t c = 0; c < p.channels; ++c) {
      p.scale[c] = 1.0f / 255;
      p.offset[c] = -0.25f;
    }
    const int64_t elements = p.batch * p.channels * p.height * p.width;
    if (p.pixels == PixelType::u8) {
      bytes.resize(elements);
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.between(0, 255));
    } else {
      floats.resize(elements);
      for (float& value : floats) value = static_cast<float>(random.between(0, 255));
    }
    for (int64_t i = 0; i < 6 * p.batch; ++i)
      matrices.push_back(random.between(-2000, 2000) / (i % 3 == 2 ? 20.0 : 997.0));
    const double strange[] = {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), -1e300,
                              1e9};
    if (random.coin()) matrices[random.between(0, 6 * p.batch - 1)] = strange[random.between(0, 3)];
  }

  std::vector<float> run(int threads) const {
    std::vector<float> to(bytes.size() + floats.size(), std::numeric_limits<float>::quiet_NaN());
    const void* images = p.pixels == PixelType::u8 ? static_cast<const void*>(bytes.data()) : floats.data();
    HostContext context(threads);
    stop_at(fastvision_kernel_library()->augment->resample(p, {images, matrices.data(), to.data()}, context));
    return to;
  }

  double pixel(int64_t n, int64_t c, int64_t y, int64_t x) const {
    const ImageStrides& s = p.image_strides;
    const int64_t i = n * s.n + c * s.c + y * s.h + x * s.w;
    return p.pixels == PixelType::u8 ? bytes[i] : floats[i];
  }

  double expected(int64_t n, int64_t c, int64_t y, int64_t x) const {
    const float last_y = p.height - 1, last_x = p.width - 1;
    const int64_t tile = x / kTileWidth * kTileWidth;
    const auto coordinate = [&](const double* row) {
      const Ramp r = ramp(row, y, tile);
      return ScalarMath::fma(static_cast<float>(x - tile), r.step, r.start);
    };
    const float cy = coordinate(&matrices[6 * n]), cx = coordinate(&matrices[6 * n + 3]);
    const bool inside = is_inside<ScalarMath>(cy, last_y) && is_inside<ScalarMath>(cx, last_x);
    double value = p.cval;
    if (p.fill != Fill::constant || inside) {
      const double fy = fold<ScalarMath>(cy, last_y, p.fill), fx = fold<ScalarMath>(cx, last_x, p.fill);
      if (p.interpolation == Interpolation::nearest) {
        value = pixel(n, c, static_cast<int64_t>(static_cast<float>(fy) + 0.5f),
                      static_cast<int64_t>(static_cast<float>(fx) + 0.5f));
      } else {
        value = 0;
        const auto y0 = static_cast<int64_t>(fy), x0 = static_cast<int64_t>(fx);
        for (int64_t i = 0; i < 2; ++i) {
          for (int64_t j = 0; j < 2; ++j) {
            const double weight = (i ? fy - y0 : 1 - (fy - y0)) * (j ? fx - x0 : 1 - (fx - x0));
            if (weight > 0) value += weight * pixel(n, c, y0 + i, x0 + j);
          }
        }
      }
    }
    return value * p.scale[c] + p.offset[c];
  }
};

bool check(Random& random) {
  const Problem problem(random);
  const AffineResampling& p = problem.p;
  const std::vector<float> result = problem.run(1);
  if (std::memcmp(result.data(), problem.run(3).data(), sizeof(float) * result.size()) != 0) {
    std::printf("the result depends on the number of threads\n");
    return false;
  }
  const ImageStrides& s = p.result_strides;
  for (int64_t n = 0; n < p.batch; ++n)
    for (int64_t c = 0; c < p.channels; ++c)
      for (int64_t y = 0; y < p.height; ++y)
        for (int64_t x = 0; x < p.width; ++x) {
          const double actual = result[n * s.n + c * s.c + y * s.h + x * s.w], expected = problem.expected(n, c, y, x);
          if (std::abs(actual - expected) <= 1e-5) continue;
          std::printf("image %d channel %d row %d column %d is %.9g, expected %.9g: fill %d, %d x %d x %d\n",
                      static_cast<int>(n), static_cast<int>(c), static_cast<int>(y), static_cast<int>(x), actual,
                      expected, static_cast<int>(p.fill), static_cast<int>(p.channels), static_cast<int>(p.height),
                      static_cast<int>(p.width));
          return false;
        }
  return true;
}

}  // namespace
}  // namespace fastvision

int main(int argc, char** argv) {
  return fastvision::run_problems(argc, argv, [](fastvision::Random& random) { return fastvision::check(random); });
}

#include "conv/cpu/depthwise.h"

#include "conv/cpu/depthwise_lanes.h"
#include "core/activation.h"
#include "core/integers.h"
#include "core/load.h"
#include "core/scratch.h"
#include "core/simd.h"

namespace fastvision {
namespace {

// A strip of padded input rows that stays in the L1 cache.
constexpr int64_t kStripFloats = 4 * 1024;

// Output rows that share loads of the input.
template <int Stride>
constexpr int kRows = Stride == 1 ? 4 : 2;

// The planes of a KernelSize x KernelSize kernel. A strip's rows are padded, and end in room for a vector. With stride
// 2 those columns that one tap meets follow each other: [row][column % 2][column / 2].
template <int KernelSize, int Stride>
class Planes {
 public:
  Planes(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish)
      : p_(p),
        tensors_(tensors),
        finish_(finish),
        phase_(round_up(p.out_w, kLanes) + KernelSize + kLanes),
        row_(Stride * phase_),
        band_rows_(std::max<int64_t>((kStripFloats / row_ - KernelSize) / Stride + 1, kRows<Stride>)),
        strip_(row_ * strip_rows(band_rows_)) {
    std::fill_n(strip_.data(), row_ * strip_rows(band_rows_), 0.f);
  }

  void run(int64_t image, int64_t channel) {
    const auto* input =
        static_cast<const float*>(tensors_.input) + image * p_.input_strides.n + channel * p_.input_strides.c;
    auto* output = static_cast<float*>(tensors_.output) + image * p_.output_strides.n + channel * p_.output_strides.c;
    load_weights(channel);
    for (int64_t first = 0; first < p_.out_h; first += band_rows_) {
      const int64_t last = std::min(p_.out_h, first + band_rows_);
      fill_strip(input, first, last - first);
      int64_t y = first;
      for (; y + kRows<Stride> <= last; y += kRows<Stride>) convolve<kRows<Stride>>(y - first, output, y);
      for (; y < last; ++y) convolve<1>(y - first, output, y);
      for (y = first; y < last; ++y) finish_(output + y * p_.output_strides.h, p_.out_w);
    }
  }

 private:
  static constexpr int64_t strip_rows(int64_t rows) { return (rows - 1) * Stride + KernelSize; }

  void load_weights(int64_t channel) {
    constexpr int64_t kTaps = KernelSize * KernelSize;
    const auto* weight = static_cast<const float*>(tensors_.weight) + channel * kTaps;
    const float scale = tensors_.scale ? tensors_.scale[channel] : 1.f;
    for (int64_t tap = 0; tap < kTaps; ++tap) Vec(weight[tap] * scale).store(weights_ + tap * kLanes);
    bias_ = tensors_.bias ? static_cast<const float*>(tensors_.bias)[channel] : 0.f;
  }

  // The input rows of output rows [first, first + rows); columns of padding are zero from the beginning.
  void fill_strip(const float* input, int64_t first, int64_t rows) {
    const int64_t top = first * Stride - p_.pad_top;
    for (int64_t i = 0; i < strip_rows(rows); ++i) {
      float* target = strip_.data() + i * row_;
      if (top + i < 0 || top + i >= p_.in_h) {
        std::fill_n(target, row_, 0.f);
      } else {
        fill_row(input + (top + i) * p_.input_strides.h, target);
      }
    }
  }

  void fill_row(const float* source, float* target) const {
    const int64_t width = (p_.out_w - 1) * Stride + KernelSize, pad = p_.pad_left;
    const int64_t columns = std::clamp<int64_t>(width - pad, 0, p_.in_w);
    if constexpr (Stride == 1) {
      for (int64_t x = 0; x < columns; x += kLanes) load_as_float(source + x, columns - x).store(target + pad + x);
    } else {
      float* even = target + pad % 2 * phase_ + pad / 2;             // column 0 of the input, 2, 4, ...
      float* odd = target + (pad + 1) % 2 * phase_ + (pad + 1) / 2;  // 1, 3, 5, ...
      const auto put = [=](int64_t x, const std::pair<Vec, Vec>& columns) FASTVISION_INLINE {
        columns.first.store(even + x / 2);
        columns.second.store(odd + x / 2);
      };
      int64_t x = 0;
      for (; x + 2 * kLanes <= columns; x += 2 * kLanes) put(x, load_even_and_odd(source + x));
      if (x < columns) {
        const int64_t rest = std::max<int64_t>(columns - x - kLanes, 0);
        const Vec left = load_as_float(source + x, columns - x), right = load_as_float(source + x + kLanes, rest);
        put(x, at::vec::deinterleave2(left, right));
      }
    }
  }

  // Rows of a plane, the first of which is `row` of the strip's.
  template <int Rows>
  void convolve(int64_t row, float* output, int64_t first) {
    const float* strip = strip_.data() + row * Stride * row_;
    const Vec bias(bias_), floor(activation_floor(p_.activation != Activation::none)),
        ceiling(activation_ceiling(p_.activation == Activation::relu6));
    // The last vector of a row lies over the one before. Where a row is shorter than a vector, what is too much is
    // written over by the next row.
    const int64_t steps = ceil_div(p_.out_w, kLanes), last_x = std::max<int64_t>(p_.out_w - kLanes, 0);
    const bool dense = p_.output_strides.h == p_.out_w;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t x = std::min(step * kLanes, last_x);
      Vec sum[Rows];
      unroll<Rows>([&](auto r) FASTVISION_INLINE { sum[r] = bias; });
      unroll<(Rows - 1) * Stride + KernelSize>([&](auto i) FASTVISION_INLINE {
        unroll<KernelSize>([&](auto k) FASTVISION_INLINE {
          const Vec input = Vec::loadu(strip + i * row_ + k % Stride * phase_ + k / Stride + x);
          unroll<Rows>([&](auto r) FASTVISION_INLINE {
            constexpr int kTap = i - r * Stride;
            if constexpr (kTap >= 0 && kTap < KernelSize) {
              sum[r] = at::vec::fmadd(input, Vec::loadu(weights_ + (kTap * KernelSize + k) * kLanes), sum[r]);
            }
          });
        });
      });
      const int64_t columns = std::min(kLanes, p_.out_w - x);
      unroll<Rows>([&](auto r) FASTVISION_INLINE {
        const int64_t y = first + r;
        float* target = output + y * p_.output_strides.h + x;
        const bool fits = columns == kLanes || (dense && y * p_.out_w + kLanes <= p_.out_h * p_.out_w);
        const Vec result = min_keeping_second(ceiling, max_keeping_second(floor, sum[r]));
        fits ? result.store(target) : result.store(target, columns);
      });
    }
  }

  const ConvPool2d& p_;
  const ConvPool2dForward& tensors_;
  const Finish& finish_;
  const int64_t phase_, row_, band_rows_;
  FloatScratch strip_;
  alignas(64) float weights_[KernelSize * KernelSize * kLanes];
  float bias_ = 0.f;
};

template <int KernelSize, int Stride>
void run_planes(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish, Context& context) {
  context.parallel_for(p.batch * p.out_channels, [&](int64_t begin, int64_t end) {
    Planes<KernelSize, Stride> planes(p, tensors, finish);
    for (int64_t i = begin; i < end; ++i) planes.run(i / p.out_channels, i % p.out_channels);
  });
}

}  // namespace

bool depthwise_applies(const ConvPool2d& p) {
  const bool is_depthwise = p.groups == p.in_channels && p.groups == p.out_channels;
  const bool square = p.kernel_h == p.kernel_w && p.stride_h == p.stride_w;
  const bool sizes =
      p.kernel_h == 7 ? p.stride_h == 1 : (p.kernel_h == 3 || p.kernel_h == 5) && (p.stride_h == 1 || p.stride_h == 2);
  const bool planes = p.input_strides.w == 1 && p.output_strides.w == 1;
  return is_depthwise && square && sizes && (planes || suits_channel_lanes(p)) && p.dtype == DType::f32 &&
         p.dilation_h == 1 && p.dilation_w == 1 && p.pool == Pool::none;
}

void depthwise_forward(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish, Context& context) {
  if (suits_channel_lanes(p)) return depthwise_forward_in_lanes(p, tensors, finish, context);
  visit_depthwise_sizes(
      p, [&]<int KernelSize, int Stride>() { run_planes<KernelSize, Stride>(p, tensors, finish, context); });
}

}  // namespace fastvision

#include "conv/cpu/depthwise_lanes.h"

#include "conv/cpu/weights.h"
#include "core/activation.h"
#include "core/integers.h"
#include "core/load.h"
#include "core/scratch.h"
#include "core/simd.h"

namespace fastvision {
namespace {

// Outputs of a row in registers, beside a row of the kernel. Widths of known networks are multiples of seven.
constexpr int64_t kColumns = 7;

bool is_channels_last(const ConvPool2d& p) {
  return p.input_strides.c == 1 && p.output_strides.c == 1 && p.out_channels > 1;
}

template <int KernelSize, int Stride>
class LaneWorker {
 public:
  LaneWorker(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish, const float* weights)
      : p_(p),
        tensors_(tensors),
        finish_(finish),
        weights_(weights),
        input_(is_channels_last(p) ? 0 : p.in_h * p.in_w * kLanes),
        output_(is_channels_last(p) ? 0 : p.out_h * p.out_w * kLanes) {}

  // Row y of a channels_last image.
  void run_row(int64_t image, int64_t y) {
    const auto* input = static_cast<const float*>(tensors_.input) + image * p_.input_strides.n;
    auto* output = static_cast<float*>(tensors_.output) + image * p_.output_strides.n + y * p_.output_strides.h;
    const int64_t whole = p_.out_channels / kLanes * kLanes;
    for_tiles([&](int64_t x) {
      const Window window(p_, y, x, {p_.input_strides.h, p_.input_strides.w, p_.output_strides.w});
      float* tile = output + x * p_.output_strides.w;
      convolve<true>(window, input, 0, whole, tile);
      if (whole < p_.out_channels) convolve<false>(window, input + whole, whole, p_.out_channels, tile + whole);
    });
    for (int64_t x = 0; finish_.is_needed() && x < p_.out_w; ++x) {
      finish_(output + x * p_.output_strides.w, p_.out_channels);
    }
  }

  // The planes of kLanes channels, transposed on the way in and out.
  void run_planes(int64_t image, int64_t block) {
    const int64_t channel = block * kLanes, channels = std::min(kLanes, p_.out_channels - channel);
    const auto* input =
        static_cast<const float*>(tensors_.input) + image * p_.input_strides.n + channel * p_.input_strides.c;
    auto* output = static_cast<float*>(tensors_.output) + image * p_.output_strides.n + channel * p_.output_strides.c;
    transpose(input, p_.input_strides.c, channels, p_.in_h * p_.in_w, input_.data(), kLanes);
    for (int64_t y = 0; y < p_.out_h; ++y) {
      for_tiles([&](int64_t x) {
        const Window window(p_, y, x, {p_.in_w * kLanes, kLanes, kLanes});
        convolve<true>(window, input_.data(), channel, channel + kLanes, output_.data() + (y * p_.out_w + x) * kLanes);
      });
    }
    finish_(output_.data(), p_.out_h * p_.out_w * kLanes);
    transpose(output_.data(), kLanes, p_.out_h * p_.out_w, channels, output, p_.output_strides.c);
  }

 private:
  static constexpr int64_t kTaps = KernelSize * KernelSize;
  static constexpr int kWindow = (kColumns - 1) * Stride + KernelSize;  // columns that a tile sees
  using Sums = Vec[kColumns];

  // f(first column) for each tile of a row. The last one lies over the one before.
  template <class F>
  void for_tiles(const F& f) const {
    for (int64_t x = 0; x < p_.out_w; x += kColumns) f(std::max<int64_t>(std::min(x, p_.out_w - kColumns), 0));
  }

  struct Strides {
    int64_t row, column, output_column;
  };

  // What a tile sees of an image: rows and columns of padding take no part.
  struct Window {
    Strides strides;
    int64_t first_tap, offset;  // of the first row, the offset that of its first column, which may be padding
    int64_t rows;
    uint32_t inside;  // a bit for each column
    int64_t columns;  // outputs

    Window(const ConvPool2d& p, int64_t y, int64_t x, const Strides& strides) : strides(strides) {
      const int64_t top = y * Stride - p.pad_top, left = x * Stride - p.pad_left;
      const int64_t first = std::clamp<int64_t>(-top, 0, KernelSize);
      const int64_t begin = std::clamp<int64_t>(-left, 0, kWindow);
      const int64_t end = std::clamp<int64_t>(p.in_w - left, begin, kWindow);
      first_tap = first * KernelSize;
      offset = (top + first) * strides.row + left * strides.column;
      rows = std::clamp<int64_t>(p.in_h - top, first, KernelSize) - first;
      inside = (uint32_t{1} << end) - (uint32_t{1} << begin);
      columns = std::min(kColumns, p.out_w - x);
    }
  };

  // Outputs of channels [first, last): all whole blocks if `Full`, else a part of one.
  template <bool Full>
  void convolve(const Window& window, const float* input, int64_t first, int64_t last, float* output) const {
    constexpr uint32_t kAll = (uint32_t{1} << kWindow) - 1;
    if (window.inside == kAll && window.columns == kColumns) {
      convolve<Full, true>(window, input, first, last, output);
    } else {
      convolve<Full, false>(window, input, first, last, output);
    }
  }

  // `Whole`: no column is padding, and there is an output in each.
  template <bool Full, bool Whole>
  void convolve(const Window& there, const float* input, int64_t first, int64_t last, float* output) const {
    const Window window = there;  // a copy: what is stored could otherwise be this
    const auto* bias = static_cast<const float*>(tensors_.bias);
    const Vec floor(activation_floor(p_.activation != Activation::none)),
        ceiling(activation_ceiling(p_.activation == Activation::relu6));
    for (int64_t channel = first; channel < last; channel += kLanes, input += kLanes, output += kLanes) {
      const int64_t channels = Full ? kLanes : last - channel;
      const Vec start = bias ? load_as_float(bias + channel, p_.out_channels - channel) : Vec(0.f);
      Sums sum;
      unroll<kColumns>([&](auto column) FASTVISION_INLINE { sum[column] = start; });
      add_products<Full, Whole>(window, input, weights_ + channel * kTaps, channels, sum);
      unroll<kColumns>([&](auto column) FASTVISION_INLINE {
        if (!Whole && column >= window.columns) return;
        const Vec result = min_keeping_second(ceiling, max_keeping_second(floor, sum[column]));
        float* target = output + column * window.strides.output_column;
        Full ? result.store(target) : result.store(target, static_cast<int>(channels));
      });
    }
  }

  template <bool Full, bool Whole>
  static FASTVISION_INLINE void add_products(const Window& window, const float* image, const float* packed,
                                             int64_t channels, Sums& sum) {
    const float* weights = packed + window.first_tap * kLanes;
    for (int64_t row = 0; row < window.rows; ++row, weights += KernelSize * kLanes) {
      const float* input = image + window.offset + row * window.strides.row;
      Vec w[KernelSize];
      unroll<KernelSize>([&](auto k) FASTVISION_INLINE { w[k] = Vec::loadu(weights + k * kLanes); });
      unroll<kWindow>([&](auto i) FASTVISION_INLINE {
        if (!Whole && !(window.inside >> i & 1)) return;
        const float* pixel = input + i * window.strides.column;
        const Vec x = Full ? Vec::loadu(pixel) : load_first(pixel, channels);
        unroll<kColumns>([&](auto column) FASTVISION_INLINE {
          constexpr int kTap = i - column * Stride;
          if constexpr (kTap >= 0 && kTap < KernelSize) sum[column] = at::vec::fmadd(x, w[kTap], sum[column]);
        });
      });
    }
  }

  const ConvPool2d& p_;
  const ConvPool2dForward& tensors_;
  const Finish& finish_;
  const float* weights_;
  FloatScratch input_, output_;  // of planes, [pixel][lane]
};

// [block][tap][lane]
const float* pack_weights(const ConvPool2d& p, const ConvPool2dForward& tensors, int64_t blocks, Context& context) {
  const int64_t taps = p.kernel_h * p.kernel_w;
  auto* packed = static_cast<float*>(context.allocate(sizeof(float) * blocks * taps * kLanes));
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t channel = block * kLanes, channels = std::min(kLanes, p.out_channels - channel);
    float* target = packed + block * taps * kLanes;
    if (channels < kLanes) std::fill_n(target, taps * kLanes, 0.f);
    transpose(static_cast<const float*>(tensors.weight) + channel * taps, taps, channels, taps, target, kLanes);
    if (tensors.scale) scale_channels(tensors.scale + channel, channels, target, taps, kLanes);
  }
  return packed;
}

template <int KernelSize, int Stride>
void run_lanes(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish, Context& context) {
  const int64_t blocks = ceil_div(p.out_channels, kLanes);
  const float* weights = pack_weights(p, tensors, blocks, context);
  const bool by_rows = is_channels_last(p);
  const int64_t units = by_rows ? p.out_h : blocks;
  context.parallel_for(p.batch * units, [&](int64_t begin, int64_t end) {
    LaneWorker<KernelSize, Stride> worker(p, tensors, finish, weights);
    for (int64_t i = begin; i < end; ++i) {
      by_rows ? worker.run_row(i / units, i % units) : worker.run_planes(i / units, i % units);
    }
  });
}

}  // namespace

// Planes small enough for two of each channel in the L2 cache. With 3x3 taps for each element the transpositions pay
// only where rows are hardly longer than a vector.
bool suits_channel_lanes(const ConvPool2d& p) {
  if (is_channels_last(p)) return true;
  constexpr int64_t kMaxPlane = 4096, kFewTaps = 9, kShortRow = 16;
  const bool many_taps = p.kernel_h * p.kernel_w > kFewTaps || p.stride_h > 1;
  return p.input_strides.w == 1 && p.output_strides.w == 1 && p.input_strides.h == p.in_w &&
         p.output_strides.h == p.out_w && (many_taps || p.out_w <= kShortRow) && p.in_h * p.in_w <= kMaxPlane &&
         p.out_h * p.out_w <= kMaxPlane && p.out_channels >= kLanes;
}

void depthwise_forward_in_lanes(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish,
                                Context& context) {
  visit_depthwise_sizes(
      p, [&]<int KernelSize, int Stride>() { run_lanes<KernelSize, Stride>(p, tensors, finish, context); });
}

}  // namespace fastvision

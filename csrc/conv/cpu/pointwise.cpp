#include "conv/cpu/pointwise.h"

#include "conv/cpu/strided.h"
#include "core/activation.h"
#include "core/cache_sets.h"
#include "core/gemm.h"
#include "core/integers.h"
#include "core/load.h"
#include "core/scratch.h"
#include "core/simd.h"

namespace fastvision {
namespace {

constexpr int kVectors = 2;
constexpr int64_t kPanel = kVectors * kLanes;  // pixels

// Additions in a row into one register, as in the direct kernel.
constexpr int64_t kMaxChain = 128;

// Output channels of a block, whose planes are prefetched together and whose weights stay in near caches.
constexpr int64_t kChannels = 24;

// Panels of a unit of work: some cache lines of each plane, which the processor would not fetch ahead one by one.
constexpr int64_t kUnitPanels = 128 / kPanel;
constexpr int64_t kUnit = kUnitPanels * kPanel;

// Where more rows of weights are read side by side than a set of the L1 cache has ways, a block of those that meet is
// copied, its rows apart (Zen 4 with AVX-512: 1024>512 @14 1.16, 1024>256 1.05 times as fast).
constexpr bool kManyRows = kMaxGemmRows > 8;

// Output pixels [first, first + count) of an image's planes, count <= kUnit.
struct Unit {
  int64_t image, first, count;
};

template <class T>
class UnitWorker {
 public:
  UnitWorker(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish, const float* weights)
      : p_(p),
        tensors_(tensors),
        finish_(finish),
        weights_(weights),
        copies_(kManyRows && meet_in_cache_sets(p.in_channels)),
        weight_stride_(p.in_channels + (copies_ ? kSetPadding : 0)),
        block_(copies_ ? kChannels * weight_stride_ : 0),
        inputs_(p.in_channels * kUnit),
        sums_(kChannels * kPanel),
        pixel_(round_up(p.in_channels, kLanes)) {}

  // The outputs of a unit in channels [begin, end). Meanwhile inputs of `next`, the unit that follows, are fetched.
  void run(const Unit& unit, int64_t begin, int64_t end, const Unit* next) {
    pack(unit);
    // A last pixel that would have a vector to itself, as that of 7x7.
    const bool one_alone = unit.count % kLanes == 1;
    if (one_alone) pack_last_pixel(unit.count - 1);
    const int64_t in_vectors = one_alone ? unit.count - 1 : unit.count;
    T* output = static_cast<T*>(tensors_.output) + unit.image * p_.output_strides.n + unit.first;
    for (int64_t o = begin; o < end; o += kChannels) {
      const int64_t channels = std::min(kChannels, end - o);
      T* planes = output + o * p_.output_strides.c;
      const float* weights = weights_of(o, channels);
      for (int64_t pixel = 0; pixel < in_vectors; pixel += kPanel) {
        // Planes are as many cache misses: those of the next panel, or block, pass meanwhile.
        if (pixel + kPanel < unit.count) {
          prefetch_outputs(planes + pixel + kPanel, channels);
        } else {
          prefetch_outputs(planes + channels * p_.output_strides.c, std::min(kChannels, end - o - channels));
        }
        if (next) {
          const int64_t done = (o - begin) * in_vectors + pixel * channels, whole = (end - begin) * in_vectors;
          prefetch_inputs(*next, done, std::min(kPanel * channels, whole - done), whole);
        }
        prefetch_weights(o + channels, end, pixel, std::min(pixel + kPanel, in_vectors), in_vectors);
        multiply(inputs_.data() + pixel * p_.in_channels, weights, o, channels, planes + pixel,
                 std::min(kPanel, in_vectors - pixel));
      }
      if (one_alone) multiply_pixel(weights, o, channels, planes + in_vectors);
      for (int64_t i = 0; i < channels; ++i) finish_(planes + i * p_.output_strides.c, unit.count);
    }
  }

 private:
  // Rows of a block, weight_stride_ apart.
  const float* weights_of(int64_t first, int64_t channels) {
    const float* weights = weights_ + first * p_.in_channels;
    if (!copies_) return weights;
    for (int64_t i = 0; i < channels; ++i) {
      convert_row(weights + i * p_.in_channels, block_.data() + i * weight_stride_, p_.in_channels);
    }
    return block_.data();
  }

  bool is_dense() const { return p_.stride_h == 1 && p_.stride_w == 1; }

  const T* image_of(const Unit& unit) const {
    return static_cast<const T*>(tensors_.input) + unit.image * p_.input_strides.n;
  }

  // Of a unit's first pixel, where the input is dense.
  const T* input_of(const Unit& unit) const { return image_of(unit) + unit.first; }

  static void prefetch_row(const T* row, int64_t count) {
    constexpr int64_t kCacheLine = 64 / sizeof(T);
    for (int64_t i = 0; i < count; i += kCacheLine) __builtin_prefetch(row + i);
  }

  // Part [begin, begin + count) of `whole` of a unit's planes, by software: the processor fetches ahead within a page.
  void prefetch_inputs(const Unit& unit, int64_t begin, int64_t count, int64_t whole) const {
    if (!is_dense()) return;
    for (int64_t c = p_.in_channels * begin / whole; c < p_.in_channels * (begin + count) / whole; ++c) {
      prefetch_row(input_of(unit) + c * p_.input_strides.c, unit.count);
    }
  }

  // Of a panel, where its cache lines end: where it begins, the one before has ended.
  void prefetch_outputs(const T* panel, int64_t channels) const {
    constexpr int64_t kStep = std::min<int64_t>(64 / sizeof(T), kPanel);
    for (int64_t i = 0; i < channels; ++i) {
      for (int64_t end = kStep; end <= kPanel; end += kStep) {
        __builtin_prefetch(panel + i * p_.output_strides.c + end - 1, 1);
      }
    }
  }

  // Part [begin, end) of `whole` of the weights of the block of channels from `first` on, if they have short rows,
  // which the processor would fetch ahead one by one. Zen 3, from memory: 160>960 @7 1.22, 96>576 @14 1.1, 256>1024
  // @14 1.07 times as fast; long rows 0.92 to 1.
  void prefetch_weights(int64_t first, int64_t last, int64_t begin, int64_t end, int64_t whole) const {
    constexpr int64_t kLongRow = 512, kCacheLine = 16;
    if (p_.in_channels >= kLongRow) return;
    const float* weights = weights_ + first * p_.in_channels;
    const int64_t count = std::min(kChannels, last - first) * p_.in_channels;
    for (int64_t i = count * begin / whole; i < count * end / whole; i += kCacheLine) {
      __builtin_prefetch(weights + i, 0, 2);
    }
  }

  // Rows of a plane that a unit's pixels lie in.
  void prefetch_strided(const T* plane, const Unit& unit) const {
    for (int64_t y = unit.first / p_.out_w; y * p_.out_w < unit.first + unit.count; ++y) {
      prefetch_row(plane + y * p_.stride_h * p_.input_strides.h, p_.out_w * p_.stride_w);
    }
  }

  // [panel][channel][pixel]; pixels that do not exist are zero.
  void pack(const Unit& unit) {
    constexpr int64_t kAhead = 4;
    for (int64_t c = 0; c < p_.in_channels; ++c) {
      float* target = inputs_.data() + c * kPanel;
      if (is_dense()) {
        const T* source = input_of(unit) + c * p_.input_strides.c;
        if (c + kAhead < p_.in_channels) prefetch_row(source + kAhead * p_.input_strides.c, unit.count);
        pack_dense(source, unit.count, target);
      } else {
        const T* plane = image_of(unit) + c * p_.input_strides.c;
        if (c + kAhead < p_.in_channels) prefetch_strided(plane + kAhead * p_.input_strides.c, unit);
        pack_strided(plane, unit.first, unit.count, target);
      }
    }
  }

  // `count` pixels of one channel.
  void pack_dense(const T* source, int64_t count, float* target) const {
    const int64_t panel_size = kPanel * p_.in_channels;
    for (; count >= kPanel; count -= kPanel, source += kPanel, target += panel_size) {
      unroll<kVectors>(
          [&](auto v) FASTVISION_INLINE { load_as_float(source + v * kLanes, kLanes).store(target + v * kLanes); });
    }
    if (count == 0) return;
    unroll<kVectors>([&](auto v) FASTVISION_INLINE {
      load_as_float(source + v * kLanes, std::max<int64_t>(count - v * kLanes, 0)).store(target + v * kLanes);
    });
  }

  void pack_strided(const T* plane, int64_t first, int64_t count, float* target) const {
    const int64_t panel_size = kPanel * p_.in_channels;
    for (int64_t pixel = 0; pixel < count; pixel += kPanel, target += panel_size) {
      const int64_t n = std::min(kPanel, count - pixel);
      for (int64_t i = 0, run; i < n; i += run) {
        const int64_t y = (first + pixel + i) / p_.out_w, x = (first + pixel + i) % p_.out_w;
        run = std::min(n - i, p_.out_w - x);
        const int64_t first_column = x * p_.stride_w;
        copy_every(p_.stride_w, plane + y * p_.stride_h * p_.input_strides.h + first_column, p_.in_w - first_column,
                   run, target + i);
      }
      std::fill(target + n, target + kPanel, 0.f);
    }
  }

  // Copies the inputs of a packed pixel to where they follow each other.
  void pack_last_pixel(int64_t pixel) {
    const float* from = inputs_.data() + pixel / kPanel * kPanel * p_.in_channels + pixel % kPanel;
    for (int64_t c = 0; c < p_.in_channels; ++c) pixel_.data()[c] = from[c * kPanel];
  }

  // The function of a channel, counted from the first, and its sums.
  auto finish_from(int64_t first_channel) const {
    const float* scale = tensors_.scale ? tensors_.scale + first_channel : nullptr;
    const T* bias = tensors_.bias ? static_cast<const T*>(tensors_.bias) + first_channel : nullptr;
    const Vec floor(activation_floor(p_.activation != Activation::none));
    const Vec ceiling(activation_ceiling(p_.activation == Activation::relu6));
    return [=](int64_t channel, const Vec& sum) FASTVISION_INLINE {
      const Vec shift(bias ? static_cast<float>(bias[channel]) : 0.f);
      const Vec result = scale ? at::vec::fmadd(sum, Vec(scale[channel]), shift) : sum + shift;
      return min_keeping_second(ceiling, max_keeping_second(floor, result));
    };
  }

  // One pixel's outputs of some channels: dot products, whose lanes are all of use.
  void multiply_pixel(const float* weights, int64_t first_channel, int64_t channels, T* planes) {
    constexpr int kRows = 8;
    const int64_t in_channels = p_.in_channels;
    const auto finished = finish_from(first_channel);
    for (int64_t first = 0; first < channels; first += kRows) {
      const float* rows[kRows];
      Vec sum[kRows];
      unroll<kRows>([&](auto r) FASTVISION_INLINE {
        const int64_t channel = first + r < channels ? first + r : channels - 1;
        rows[r] = weights + channel * weight_stride_;
        sum[r] = Vec(0.f);
      });
      const auto add = [&](int64_t c, int64_t count) FASTVISION_INLINE {
        const Vec x = load_as_float(pixel_.data() + c, count);
        unroll<kRows>([&](auto r)
                          FASTVISION_INLINE { sum[r] = at::vec::fmadd(x, load_as_float(rows[r] + c, count), sum[r]); });
      };
      int64_t c = 0;
      for (; c + kLanes <= in_channels; c += kLanes) add(c, kLanes);
      if (c < in_channels) add(c, in_channels - c);
      float totals[kRows];
      sum_lanes(sum, totals);
      for (int64_t i = 0; i < std::min<int64_t>(kRows, channels - first); ++i) {
        float lanes[kLanes];
        finished(first + i, Vec(totals[i])).store(lanes);
        planes[(first + i) * p_.output_strides.c] = static_cast<T>(lanes[0]);
      }
    }
  }

  // A panel's outputs of some channels.
  void multiply(const float* panel, const float* weights, int64_t first_channel, int64_t channels, T* planes,
                int64_t count) {
    const Product product{weights,        weight_stride_, panel,          kPanel,
                          p_.in_channels, kMaxChain,      p_.in_channels, sums_.data()};
    const int64_t plane = p_.output_strides.c;
    const auto finished = finish_from(first_channel);
    if constexpr (std::is_same_v<T, float>) {
      if (count == kPanel) {
        return multiply_rows<kVectors>(product, channels, [=](int64_t row, int v, const Vec& sum) FASTVISION_INLINE {
          finished(row, sum).store(planes + row * plane + v * kLanes);
        });
      }
    }
    float* sums = sums_.data();
    const auto store = [=](int64_t row, int v, const Vec& sum)
                           FASTVISION_INLINE { finished(row, sum).store(sums + row * kPanel + v * kLanes); };
    count > kLanes ? multiply_rows<kVectors>(product, channels, store) : multiply_rows<1>(product, channels, store);
    for (int64_t i = 0; i < channels; ++i) convert_row(sums + i * kPanel, planes + i * plane, count);
  }

  const ConvPool2d& p_;
  const ConvPool2dForward& tensors_;
  const Finish& finish_;
  const float* weights_;
  const bool copies_;
  const int64_t weight_stride_;
  FloatScratch block_, inputs_, sums_, pixel_;
};

template <class T>
const float* weights_as_floats(const ConvPool2d& p, const T* weight, Context& context) {
  if constexpr (std::is_same_v<T, float>) return weight;
  const int64_t size = p.out_channels * p.in_channels;
  auto* floats = static_cast<float*>(context.allocate(sizeof(float) * size));
  convert_row(weight, floats, size);
  return floats;
}

// Parts that output channels are cut into where there are few units, for threads to share.
int64_t channel_sets(const ConvPool2d& p, int64_t units) {
  constexpr int64_t kUnits = 4, kMinChannels = 64;  // every part packs the inputs again
  return std::clamp<int64_t>(p.out_channels / kMinChannels, 1, ceil_div(kUnits, units));
}

}  // namespace

bool pointwise_applies(const ConvPool2d& p) {
  const bool planes = p.input_strides.w == 1 && p.output_strides.w == 1 && p.input_strides.h == p.in_w;
  return p.kernel_h == 1 && p.kernel_w == 1 && p.groups == 1 && p.pool == Pool::none && p.pad_top == 0 &&
         p.pad_left == 0 && (p.conv_h - 1) * p.stride_h < p.in_h && (p.conv_w - 1) * p.stride_w < p.in_w && planes &&
         p.conv_h * p.conv_w >= kPanel;
}

void pointwise_forward(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish, Context& context) {
  const int64_t pixels = p.conv_h * p.conv_w, units = ceil_div(pixels, kUnit);
  const int64_t sets = channel_sets(p, p.batch * units);
  const auto unit_at = [=](int64_t i) {
    const int64_t first = i % units * kUnit;
    return Unit{i / units, first, std::min(kUnit, pixels - first)};
  };
  visit_dtype(p.dtype, [&]<class T>() {
    const float* weights = weights_as_floats(p, static_cast<const T*>(tensors.weight), context);
    context.parallel_for(p.batch * units * sets, [&](int64_t begin, int64_t end) {
      UnitWorker<T> worker(p, tensors, finish, weights);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t set = i % sets;
        const Unit unit = unit_at(i / sets), next = unit_at((i + 1) / sets);
        worker.run(unit, p.out_channels * set / sets, p.out_channels * (set + 1) / sets,
                   set == sets - 1 && i + 1 < end ? &next : nullptr);
      }
    });
  });
}

}  // namespace fastvision

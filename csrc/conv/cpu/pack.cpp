#include "conv/cpu/pack.h"

#include "core/simd.h"

namespace fastvision {
namespace {

// Columns [begin, end) of a strip row hold input columns, the others are padding.
struct ColumnRange {
  int64_t begin, end;
};

ColumnRange columns_inside(const ConvPool2d& p, const DirectPlan& plan) {
  const int64_t begin = std::min(p.pad_left, plan.strip_w);
  return {begin, std::max(begin, std::min(plan.strip_w, p.pad_left + p.in_w))};
}

template <class T>
void pack_planar_row(const ColumnRange& inside, int64_t strip_w, const T* row, float* target) {
  std::fill(target, target + inside.begin, 0.f);
  convert_row(row, target + inside.begin, inside.end - inside.begin);
  std::fill(target + inside.end, target + strip_w, 0.f);
}

template <class T>
void pack_interleaved_row(const ConvPool2d& p, const DirectPlan& plan, const ColumnRange& inside, const T* row,
                          float* target) {
  const int64_t channels = plan.group_in_channels;
  const int64_t columns = inside.end - inside.begin;
  std::fill(target, target + inside.begin * channels, 0.f);
  std::fill(target + inside.end * channels, target + plan.strip_w * channels, 0.f);
  float* first = target + inside.begin * channels;
  if (p.input_strides.w == 1 && channels > 1) {
    transpose(row, p.input_strides.c, channels, columns, first, channels);
  } else if (p.input_strides.w == channels) {
    convert_row(row, first, columns * channels);
  } else {
    for (int64_t x = 0; x < columns; ++x) convert_row(row + x * p.input_strides.w, first + x * channels, channels);
  }
}

template <class T>
void pack_strip_of(const ConvPool2d& p, const DirectPlan& plan, const T* image, int64_t first, int64_t rows,
                   float* strip) {
  const ColumnRange inside = columns_inside(p, plan);
  const bool planar = plan.order == InputOrder::planar;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t y = first + r - p.pad_top;
    const bool outside = y < 0 || y >= p.in_h;
    const T* row = image + y * p.input_strides.h;
    float* target = strip + r * plan.row_stride;
    if (planar) {
      for (int64_t c = 0; c < plan.group_in_channels; ++c) {
        float* plane = target + c * plan.channel_stride;
        if (outside) {
          std::fill(plane, plane + plan.strip_w, 0.f);
        } else {
          pack_planar_row(inside, plan.strip_w, row + c * p.input_strides.c, plane);
        }
      }
    } else if (outside) {
      std::fill(target, target + plan.row_stride, 0.f);
    } else {
      pack_interleaved_row(p, plan, inside, row, target);
    }
  }
}

template <class T>
void pack_weights_of(const ConvPool2d& p, const DirectPlan& plan, const T* weight, int64_t block, float* packed) {
  const int64_t group = block / plan.blocks;
  const int64_t first = (block % plan.blocks) * plan.block_channels;
  const int64_t channels = std::min(plan.block_channels, plan.group_out_channels - first);
  const int64_t window = p.kernel_h * p.kernel_w;
  if (channels < plan.block_channels) std::fill(packed, packed + packed_block_size(plan), 0.f);
  const T* source = weight + (group * plan.group_out_channels + first) * plan.tap_count;
  if (plan.order == InputOrder::planar || window == 1) {
    transpose(source, plan.tap_count, channels, plan.tap_count, packed, plan.block_channels);
    return;
  }
  // From (channel, row, column) to (row, column, channel): a few channels at a time, through L1.
  constexpr int64_t kTaps = 512;
  alignas(64) float taps[kTaps * 2 * kLanes];
  const int64_t channels_at_once = std::max<int64_t>(1, kTaps / window);
  for (int64_t c = 0; c < plan.group_in_channels; c += channels_at_once) {
    const int64_t in_channels = std::min(channels_at_once, plan.group_in_channels - c);
    for (int64_t w = 0; w < window; w += kTaps) {  // more than one turn only for windows beyond kTaps
      const int64_t n = std::min(kTaps, in_channels * window - w);
      transpose(source + c * window + w, plan.tap_count, channels, n, taps, plan.block_channels);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t channel = c + (w + i) / window;
        const int64_t tap = (w + i) % window;
        std::copy_n(taps + i * plan.block_channels, channels,
                    packed + (tap * plan.group_in_channels + channel) * plan.block_channels);
      }
    }
  }
}

}  // namespace

void pack_weights(const ConvPool2d& p, const DirectPlan& plan, const void* weight, int64_t block, float* packed) {
  visit_dtype(p.dtype, [&]<class T>() { pack_weights_of(p, plan, static_cast<const T*>(weight), block, packed); });
}

void pack_strip(const ConvPool2d& p, const DirectPlan& plan, const void* input, int64_t image, int64_t group,
                int64_t first, int64_t rows, float* strip) {
  visit_dtype(p.dtype, [&]<class T>() {
    const T* origin =
        static_cast<const T*>(input) + image * p.input_strides.n + group * plan.group_in_channels * p.input_strides.c;
    pack_strip_of(p, plan, origin, first, rows, strip);
  });
}

}  // namespace fastvision

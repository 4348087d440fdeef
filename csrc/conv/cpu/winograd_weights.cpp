#include "conv/cpu/winograd_weights.h"

#include "conv/cpu/winograd_transform.h"

namespace fastvision::winograd {
namespace {

constexpr int64_t kWindowTaps = kTaps * kTaps;

// Some input channels' weights for a block of output channels, in L1.
struct Chunk {
  const float* data;
  int64_t channel_stride, tap_stride;
};

void transform_chunk(const Chunk& chunk, int64_t channels, int64_t vectors, int64_t point_stride, float* transformed) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t v = 0; v < vectors; ++v) {
      const float* from = chunk.data + c * chunk.channel_stride + v * kLanes;
      float* to = transformed + (c * vectors + v) * kLanes;
      transform_square<kTaps, kTaps, kWindow, kWindow, &transform_weight>(
          [&](int row, int column)
              FASTVISION_INLINE { return Vec::loadu(from + (row * kTaps + column) * chunk.tap_stride); },
          [&](int row, int column, const Vec& value)
              FASTVISION_INLINE { value.store(to + (row * kWindow + column) * point_stride); });
    }
  }
}

template <class T>
void transform_weights_of(const ConvPool2d& p, const DirectPlan& plan, const T* weight, const float* scale,
                          int64_t block, float* transformed) {
  const auto [first, out_channels] = block_channels(plan, block);
  const int64_t vectors = (out_channels + kLanes - 1) / kLanes;
  const T* source = weight + first * plan.tap_count;

  constexpr int64_t kChannels = 16;
  alignas(64) float taps[kChannels * kWindowTaps * 2 * kLanes] = {};
  const int64_t pixel = plan.block_channels;
  for (int64_t c = 0; c < plan.group_in_channels; c += kChannels) {
    const int64_t channels = std::min(kChannels, plan.group_in_channels - c);
    Chunk chunk{taps, kWindowTaps * pixel, pixel};
    if (p.channels_last_weight) {
      chunk = {taps, pixel, kChannels * pixel};
      for (int64_t tap = 0; tap < kWindowTaps; ++tap) {
        transpose(source + tap * plan.group_in_channels + c, plan.tap_count, out_channels, channels,
                  taps + tap * chunk.tap_stride, pixel);
      }
    } else {
      transpose(source + c * kWindowTaps, plan.tap_count, out_channels, channels * kWindowTaps, taps, pixel);
    }
    if (scale) {
      const int64_t rows = (p.channels_last_weight ? kChannels : channels) * kWindowTaps;
      scale_channels(scale + first, out_channels, taps, rows, pixel);
    }
    transform_chunk(chunk, channels, vectors, weight_stride(plan), transformed + c * vectors * kLanes);
  }
}

}  // namespace

void transform_weights(const ConvPool2d& p, const DirectPlan& plan, const Layer& layer, int64_t block,
                       float* transformed) {
  visit_dtype(p.dtype, [&]<class T>() {
    transform_weights_of(p, plan, static_cast<const T*>(layer.weight), layer.scale, block, transformed);
  });
}

void transform_all_weights(const ConvPool2d& p, const DirectPlan& plan, const Layer& layer, float* transformed,
                           Context& context) {
  const int64_t size = weight_block_size(plan);
  context.parallel_for(p.groups * plan.blocks, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      transform_weights(p, plan, layer, block, transformed + block * size);
    }
  });
}

}  // namespace fastvision::winograd

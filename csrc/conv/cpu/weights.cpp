#include "conv/cpu/weights.h"

#include "core/simd.h"

namespace fastvision {
namespace {

template <class T>
void pack_weights_of(const ConvPool2d& p, const DirectPlan& plan, const T* weight, int64_t block, float* packed) {
  const auto [first, channels] = block_channels(plan, block);
  const int64_t window = p.kernel_h * p.kernel_w;
  if (channels < plan.block_channels) std::fill(packed, packed + packed_block_size(plan), 0.f);
  const T* source = weight + first * plan.tap_count;
  if (window == 1 || plan.group_in_channels == 1 || p.channels_last_weight) {
    transpose(source, plan.tap_count, channels, plan.tap_count, packed, plan.block_channels);
    return;
  }
  // From (channel, row, column) to (row, column, channel): a few channels at a time, through L1.
  constexpr int64_t kTaps = 144;
  alignas(64) float taps[kTaps * 2 * kLanes];
  if (channels < plan.block_channels) std::fill(std::begin(taps), std::end(taps), 0.f);
  const int64_t channels_at_once = std::max<int64_t>(1, kTaps / window);
  for (int64_t c = 0; c < plan.group_in_channels; c += channels_at_once) {
    const int64_t in_channels = std::min(channels_at_once, plan.group_in_channels - c);
    for (int64_t w = 0; w < window; w += kTaps) {  // more than one turn only for windows beyond kTaps
      const int64_t n = std::min(kTaps, in_channels * window - w);
      transpose(source + c * window + w, plan.tap_count, channels, n, taps, plan.block_channels);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t channel = c + (w + i) / window;
        const int64_t tap = (w + i) % window;
        float* target = packed + (tap * plan.group_in_channels + channel) * plan.block_channels;
        unroll<2>([&](auto v) FASTVISION_INLINE {
          Vec::loadu(taps + i * plan.block_channels + v * kLanes).store(target + v * kLanes);
        });
      }
    }
  }
}

}  // namespace

void scale_channels(const float* factors, int64_t channels, float* rows, int64_t count, int64_t stride) {
  alignas(64) float padded[2 * kLanes] = {};
  std::copy_n(factors, channels, padded);
  for (int64_t v = 0; v < channels; v += kLanes) {
    const Vec factor = Vec::loadu(padded + v);
    for (int64_t i = 0; i < count; ++i) {
      float* row = rows + i * stride + v;
      (Vec::loadu(row) * factor).store(row);
    }
  }
}

void pack_weights(const ConvPool2d& p, const DirectPlan& plan, const Layer& layer, int64_t block, float* packed) {
  visit_dtype(p.dtype,
              [&]<class T>() { pack_weights_of(p, plan, static_cast<const T*>(layer.weight), block, packed); });
  if (!layer.scale) return;
  const ChannelRange channels = block_channels(plan, block);
  scale_channels(layer.scale + channels.first, channels.count, packed, plan.tap_count, plan.block_channels);
}

const float* pack_bias(const ConvPool2d& p, const DirectPlan& plan, const void* bias, Context& context) {
  const int64_t size = p.groups * plan.blocks * plan.block_channels;
  auto* biases = static_cast<float*>(context.allocate(sizeof(float) * size));
  std::fill_n(biases, size, 0.f);
  if (bias) {
    visit_dtype(p.dtype, [&]<class T>() {
      const T* source = static_cast<const T*>(bias);
      for (int64_t g = 0; g < p.groups; ++g) {
        convert_row(source + g * plan.group_out_channels, biases + g * plan.blocks * plan.block_channels,
                    plan.group_out_channels);
      }
    });
  }
  return biases;
}

}  // namespace fastvision

#include "conv/cpu/plan.h"

#include <algorithm>

#include "core/cache_sets.h"

namespace fastvision {
namespace {

// Up to here a planar strip, which needs no transposing, outruns an interleaved one.
constexpr int64_t kMaxPlanarChannels = 4;

// Additions in a row into one register. Stock sums in longer chains: 128 keeps our rounding
// error below its, at no measurable cost.
constexpr int64_t kMaxChain = 128;

// A strip this large leaves room in L2 for the weights and the output rows.
constexpr int64_t kStripBytes = 256 * 1024;

// Units of work that a problem is cut into, if it has fewer by itself, so that more threads than
// one find something to do. Below kSmallProblem a second thread costs more than it saves.
constexpr int64_t kUnits = 4;
constexpr int64_t kSmallProblem = 1 << 20;  // multiply-adds

// Every band streams all weights through L2 once: bands are cut for threads only while those are few.
constexpr int64_t kFewWeightBytes = 256 * 1024;

void append_run(DirectPlan& plan, int64_t offset, int64_t length) {
  const int64_t pieces = ceil_div(length, kMaxChain);
  for (int64_t i = 0; i < pieces; ++i) {
    const int64_t begin = length * i / pieces;
    const int64_t end = length * (i + 1) / pieces;
    plan.taps.push_back({offset + begin * plan.tap_stride, static_cast<int32_t>(end - begin), false});
  }
}

void cut_chains(std::vector<TapRun>& taps) {
  int64_t chain = 0;
  for (size_t i = 0; i < taps.size(); ++i) {
    chain += taps[i].length;
    taps[i].ends_chain = i + 1 == taps.size() || chain + taps[i + 1].length > kMaxChain;
    if (taps[i].ends_chain) chain = 0;
  }
}

// Taps in the order (row, column, channel), whatever the layout. Stock sums large images of few channels so:
// with these, rounding is the same to the last bit.
void find_taps(const ConvPool2d& p, DirectPlan& plan) {
  const int64_t pixel = plan.column_stride / p.stride_w;
  const bool rows_in_one_run = plan.tap_stride == 1 && p.dilation_w == 1 && pixel == plan.group_in_channels;
  for (int64_t r = 0; r < p.kernel_h; ++r) {
    const int64_t row = r * p.dilation_h * plan.row_stride;
    if (rows_in_one_run) {
      append_run(plan, row, p.kernel_w * plan.group_in_channels);
      continue;
    }
    for (int64_t s = 0; s < p.kernel_w; ++s) append_run(plan, row + s * p.dilation_w * pixel, plan.group_in_channels);
  }
  cut_chains(plan.taps);
  plan.chains = std::count_if(plan.taps.begin(), plan.taps.end(), [](const TapRun& t) { return t.ends_chain; });
}

int64_t strip_rows(const ConvPool2d& p, int64_t conv_rows) {
  return (conv_rows - 1) * p.stride_h + (p.kernel_h - 1) * p.dilation_h + 1;
}

void choose_bands(const ConvPool2d& p, DirectPlan& plan) {
  const int64_t row_bytes = 4 * plan.strip_w * plan.group_in_channels;
  const int64_t fixed_rows = strip_rows(p, p.pool_kernel_h);
  const int64_t rows_per_output = p.pool_stride_h * p.stride_h;
  const int64_t rows_that_fit = std::max<int64_t>(kStripBytes / row_bytes - fixed_rows, 0) / rows_per_output + 1;
  int64_t bands = ceil_div(p.out_h, rows_that_fit);
  const int64_t images = std::max<int64_t>(p.batch * p.groups, 1);
  const bool small = p.conv_h * p.conv_w * plan.tap_count * p.out_channels < kSmallProblem / images;
  const int64_t wanted = small ? 1 : ceil_div(kUnits, images);
  const bool few_weights = 4 * plan.tap_count * plan.group_out_channels <= kFewWeightBytes;
  if (few_weights) bands = std::max(bands, wanted);
  plan.band_rows = ceil_div(p.out_h, std::min(bands, p.out_h));
  plan.bands = ceil_div(p.out_h, plan.band_rows);
  plan.block_sets = std::min(plan.blocks, ceil_div(wanted, plan.bands));
  plan.max_band_conv_rows = std::min((plan.band_rows - 1) * p.pool_stride_h + p.pool_kernel_h, p.conv_h);
  plan.max_strip_rows = strip_rows(p, plan.max_band_conv_rows);
}

}  // namespace

RowRange conv_rows(const ConvPool2d& p, int64_t first, int64_t last) {
  const PoolSpan top = pool_span(first, p.pool_kernel_h, p.pool_stride_h, p.pool_pad_h, p.conv_h, true);
  const PoolSpan bottom = pool_span(last - 1, p.pool_kernel_h, p.pool_stride_h, p.pool_pad_h, p.conv_h, true);
  return {top.begin, bottom.end};
}

DirectPlan make_direct_plan(const ConvPool2d& p, int64_t lanes, InputChoice choice) {
  DirectPlan plan{};
  plan.group_in_channels = p.in_channels / p.groups;
  plan.group_out_channels = p.out_channels / p.groups;
  const bool channels_last = p.input_strides.c == 1 && p.in_channels > 1;
  const bool planar = choice == InputChoice::any && !channels_last && plan.group_in_channels <= kMaxPlanarChannels;
  plan.order = planar ? InputOrder::planar : InputOrder::interleaved;
  plan.strip_w = (p.conv_w - 1) * p.stride_w + (p.kernel_w - 1) * p.dilation_w + 1;

  const bool no_padding =
      p.pad_top == 0 && p.pad_left == 0 && plan.strip_w <= p.in_w && strip_rows(p, p.conv_h) <= p.in_h;
  // Inputs of a tile's columns. Zen 4, channels_last 1x1: 1024>512 @14 0.67 of the speed of a copy that keeps them
  // apart, 512>512 as fast.
  const auto meet = [&](int64_t pixel) { return meet_in_cache_sets(p.stride_w * pixel); };
  plan.in_place = choice != InputChoice::interleaved_strip && p.dtype == DType::f32 && no_padding &&
                  (planar || (channels_last && !meet(p.input_strides.w)));
  const bool padded = choice != InputChoice::interleaved_strip && meet(plan.group_in_channels);
  plan.pixel = plan.group_in_channels + (padded ? kSetPadding : 0);
  plan.tap_count = p.kernel_h * p.kernel_w * plan.group_in_channels;
  plan.block_channels = 2 * lanes;
  plan.blocks = ceil_div(plan.group_out_channels, plan.block_channels);
  choose_bands(p, plan);

  const int64_t pixel = planar ? 1 : plan.in_place ? p.input_strides.w : plan.pixel;
  plan.column_stride = p.stride_w * pixel;
  plan.row_stride = plan.in_place ? p.input_strides.h : plan.strip_w * pixel;
  plan.channel_stride = plan.in_place ? p.input_strides.c : plan.row_stride * plan.max_strip_rows;
  plan.tap_stride = planar ? plan.channel_stride : 1;
  find_taps(p, plan);
  return plan;
}

}  // namespace fastvision

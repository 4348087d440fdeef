// The direct convolution: strips of input rows, blocks of output channels, one output row at a time.
#include "conv/cpu/forward.h"

#include "conv/cpu/output.h"
#include "conv/cpu/rows.h"
#include "conv/cpu/weights.h"
#include "core/scratch.h"
#include "core/simd.h"

namespace fastvision {
namespace {

// Weights and bias of all blocks, packed.
struct PackedLayer {
  const float* weights;
  const float* bias;
};

PackedLayer pack_layer(const ConvPool2d& p, const DirectPlan& plan, const Layer& layer, Context& context) {
  const int64_t blocks = p.groups * plan.blocks;
  auto* weights = static_cast<float*>(context.allocate(sizeof(float) * blocks * packed_block_size(plan)));
  context.parallel_for(blocks, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) pack_weights(p, plan, layer, b, weights + b * packed_block_size(plan));
  });
  return {weights, pack_bias(p, plan, layer.bias, context)};
}

// Memory of one thread at work on one band of rows.
struct BandScratch {
  float* strip;
  float* conv_rows;  // a ring of rows that wait to be pooled
  float* values;     // two output rows
  float* codes;      // the selection of one

  static int64_t size(const ConvPool2d& p, const DirectPlan& plan) {
    return round_up(plan.strip_size()) + round_up(conv_rows_size(p, plan)) +
           3 * round_up(p.out_w * plan.block_channels);
  }

  // Rows are computed in pairs: one may be early.
  static int64_t ring_rows(const ConvPool2d& p) { return p.pool_kernel_h + 1; }

  BandScratch(const ConvPool2d& p, const DirectPlan& plan, float* memory)
      : strip(memory),
        conv_rows(strip + round_up(plan.strip_size())),
        values(conv_rows + round_up(conv_rows_size(p, plan))),
        codes(values + 2 * round_up(p.out_w * plan.block_channels)) {}

 private:
  static int64_t round_up(int64_t floats) { return (floats + 15) / 16 * 16; }  // to cache lines
  static int64_t conv_rows_size(const ConvPool2d& p, const DirectPlan& plan) {
    return pools_in_registers(p) ? 0 : ring_rows(p) * p.conv_w * plan.block_channels;
  }
};

class BandWorker {
 public:
  BandWorker(const DirectConvolution& work, const PackedLayer& layer, float* memory)
      : work_(work), p_(work.problem), plan_(work.plan), layer_(layer), scratch_(p_, plan_, memory) {}

  // One unit of work: a band of output rows of some blocks of channels.
  void run(int64_t unit) {
    const int64_t set = unit % plan_.block_sets;
    const int64_t band = unit / plan_.block_sets % plan_.bands;
    const int64_t group = unit / plan_.block_sets / plan_.bands % p_.groups;
    const int64_t image = unit / plan_.block_sets / plan_.bands / p_.groups;
    const int64_t first = band * plan_.band_rows;
    const int64_t last = std::min(first + plan_.band_rows, p_.out_h);
    const RowRange rows = conv_rows(p_, first, last);
    locate_input(image, group, rows);
    for (int64_t b = plan_.blocks * set / plan_.block_sets; b < plan_.blocks * (set + 1) / plan_.block_sets; ++b) {
      const int64_t channel = b * plan_.block_channels;
      const int64_t number = group * plan_.blocks + b;
      block_ = {layer_.weights + number * plan_.tap_count * plan_.block_channels,
                layer_.bias + number * plan_.block_channels,
                std::min(plan_.block_channels, plan_.group_out_channels - channel)};
      const OutputBlock output(p_, work_.output, work_.selection, work_.finish, image,
                               group * plan_.group_out_channels + channel, block_.channels, plan_.block_channels);
      next_conv_row_ = rows.begin;
      output_rows(output, first, last);
    }
  }

 private:
  // Sets origin_, the address of the first tap of convolution row rows.begin.
  void locate_input(int64_t image, int64_t group, const RowRange& rows) {
    conv_rows_ = rows;
    const int64_t first_input = rows.begin * p_.stride_h;
    if (plan_.in_place) {
      origin_ = static_cast<const float*>(work_.input) + image * p_.input_strides.n +
                group * plan_.group_in_channels * p_.input_strides.c + first_input * p_.input_strides.h;
      return;
    }
    const int64_t count = (rows.end - rows.begin - 1) * p_.stride_h + (p_.kernel_h - 1) * p_.dilation_h + 1;
    work_.source.pack(image, group, first_input, count, scratch_.strip);
    origin_ = scratch_.strip;
  }

  const float* input_of(int64_t conv_row) const {
    return origin_ + (conv_row - conv_rows_.begin) * p_.stride_h * plan_.row_stride;
  }

  void output_rows(const OutputBlock& output, int64_t first, int64_t last) {
    const bool no_pool = p_.pool == Pool::none && !work_.selection;
    for (int64_t y = first, count; y < last; y += count) {
      count = no_pool ? std::min<int64_t>(2, last - y) : 1;
      PooledRow rows[2];
      for (int64_t i = 0; i < count; ++i) {
        rows[i] = output.row(y + i, scratch_.values + i * p_.out_w * plan_.block_channels, scratch_.codes);
        if (!output.is_written_in_place()) output.prefetch(y + i);
      }
      if (no_pool) {
        store_rows(plan_, block_, p_.conv_w, p_.activation == Activation::relu,
                   {count, {input_of(y), input_of(y + 1)}, {rows[0].values, rows[1].values}, rows[0].value_pixel});
      } else if (pools_in_registers(p_)) {
        max_pool_row(p_, plan_, block_, input_of(2 * y), rows[0]);
      } else {
        pool_from_ring(y, rows[0]);
      }
      for (int64_t i = 0; i < count; ++i) output.emit(y + i, rows[i]);
    }
  }

  void pool_from_ring(int64_t y, const PooledRow& row) {
    const PoolSpan span =
        pool_span(y, p_.pool_kernel_h, p_.pool_stride_h, p_.pool_pad_h, p_.conv_h, p_.count_include_pad);
    next_conv_row_ = std::max(next_conv_row_, span.begin);
    for (int64_t count; next_conv_row_ < span.end; next_conv_row_ += count) {
      count = std::min<int64_t>(2, conv_rows_.end - next_conv_row_);
      store_rows(plan_, block_, p_.conv_w, false,
                 {count,
                  {input_of(next_conv_row_), input_of(next_conv_row_ + 1)},
                  {ring_row(next_conv_row_), ring_row(next_conv_row_ + 1)},
                  plan_.block_channels});
    }
    const float* rows[kMaxSelectableMaxWindow];
    for (int64_t r = span.begin; r < span.end; ++r) rows[r - span.begin] = ring_row(r);
    pool_row(p_, {rows, span, plan_.block_channels}, block_.channels > kLanes ? 2 : 1, row);
  }

  float* ring_row(int64_t conv_row) const {
    return scratch_.conv_rows + conv_row % BandScratch::ring_rows(p_) * p_.conv_w * plan_.block_channels;
  }

  const DirectConvolution& work_;
  const ConvPool2d& p_;
  const DirectPlan& plan_;
  const PackedLayer& layer_;
  const BandScratch scratch_;
  int64_t next_conv_row_ = 0;
  RowRange conv_rows_{};
  const float* origin_ = nullptr;
  Block block_{};
};

}  // namespace

void run(const DirectConvolution& work, const Layer& constants, Context& context) {
  const ConvPool2d& p = work.problem;
  const DirectPlan& plan = work.plan;
  const PackedLayer layer = pack_layer(p, plan, constants, context);
  context.parallel_for(p.batch * p.groups * plan.bands * plan.block_sets, [&](int64_t begin, int64_t end) {
    FloatScratch scratch(BandScratch::size(p, plan));
    BandWorker worker(work, layer, scratch.data());
    for (int64_t unit = begin; unit < end; ++unit) worker.run(unit);
  });
}

}  // namespace fastvision

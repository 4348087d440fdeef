#include "conv/cpu/winograd.h"

#include <cmath>

#include "conv/cpu/output.h"
#include "conv/cpu/weights.h"
#include "conv/cpu/winograd_kept.h"
#include "conv/cpu/winograd_output.h"
#include "conv/cpu/winograd_transform.h"
#include "conv/cpu/winograd_weights.h"
#include "core/gemm.h"
#include "core/scratch.h"

namespace fastvision {
namespace {

using namespace winograd;

// Chains of 8 products, whose sums are added in groups, about as many of them as a group has chains: the shortest sums.
// Error in multiples of the direct kernel's, 64 and 512 channels: 2.9 and 3.0 for chains of 32, 2.3 and 2.5 for these,
// and no difference in time that could be measured (Zen 5).
constexpr int64_t kMaxChain = 8;
int64_t chains_of_group(int64_t channels) {
  return static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(channels) / kMaxChain)));
}

int64_t vectors_of(int64_t channels) {
  return channels > kLanes ? 2 : 1;
}

// One tile's inputs, [point][channel], from a strip.
void transform_tile(const DirectPlan& plan, const float* strip, int64_t point_stride, float* transformed) {
  const int64_t pixel = plan.group_in_channels;
  // The last vector may hold channels of the next pixel: their products are never taken.
  for (int64_t c = 0; c < pixel; c += kLanes) {
    transform_square<kWindow, kWindow, kWindow, kWindow, &transform_input>(
        [&](int row, int column)
            FASTVISION_INLINE { return Vec::loadu(strip + row * plan.row_stride + column * pixel + c); },
        [&](int row, int column, const Vec& value)
            FASTVISION_INLINE { value.store(transformed + (row * kWindow + column) * point_stride + c); });
  }
}

// The work of one thread on units of a group.
class UnitWorker {
 public:
  UnitWorker(const WinogradConvolution& work, const float* biases)
      : work_(work),
        p_(work.problem),
        plan_(work.plan),
        biases_(biases),
        strip_(plan_.direct.row_stride * plan_.direct.max_strip_rows + kLanes),
        sums_(kPoints * sums_stride()),
        rows_(band_output_size(p_, plan_)) {}

  static int64_t inputs_size(const WinogradPlan& plan) { return kPoints * plan.point_stride(); }

  void transform_inputs(int64_t group, int64_t unit, float* inputs) {
    for (int64_t i = 0; i < bands_of(unit); ++i) {
      const Band band = band_at(unit * plan_.unit_bands + i);
      work_.source.pack(band.image, group, band.rows.begin, kTile * band.tile_rows + kWindow - kTile, strip_.data());
      float* tile = inputs + i * plan_.band_tiles() * plan_.pixel;
      for (int64_t y = 0; y < band.tile_rows; ++y) {
        for (int64_t x = 0; x < plan_.tiles_x; ++x, tile += plan_.pixel) {
          transform_tile(plan_.direct,
                         strip_.data() + kTile * (y * plan_.direct.row_stride + x * plan_.direct.group_in_channels),
                         plan_.point_stride(), tile);
        }
      }
    }
  }

  // Products and outputs of one block of channels.
  void compute_block(int64_t group, int64_t unit, int64_t block, const float* inputs, const float* weights) {
    const DirectPlan& direct = plan_.direct;
    const int64_t first = block * direct.block_channels;
    const int64_t channels = std::min(direct.block_channels, direct.group_out_channels - first);
    const float* bias = biases_ + (group * direct.blocks + block) * direct.block_channels;
    multiply_points(unit, inputs, weights, vectors_of(channels));
    for (int64_t i = 0; i < bands_of(unit); ++i) {
      const Band band = band_at(unit * plan_.unit_bands + i);
      const OutputBlock output(p_, work_.output, work_.selection, work_.finish, band.image,
                               group * direct.group_out_channels + first, channels, direct.block_channels);
      const TileSums sums{sums_.data() + i * plan_.band_tiles() * vectors_of(channels) * kLanes, sums_stride(), bias};
      write_band(p_, plan_, band, output, sums, vectors_of(channels), rows_.data());
    }
  }

 private:
  int64_t sums_stride() const { return plan_.unit_tiles() * plan_.direct.block_channels + kPointPadding; }

  int64_t bands_of(int64_t unit) const {
    return std::min(plan_.unit_bands, p_.batch * plan_.bands - unit * plan_.unit_bands);
  }

  Band band_at(int64_t number) const {
    const int64_t first = number % plan_.bands * plan_.band_rows;
    const int64_t last = std::min(first + plan_.band_rows, p_.out_h);
    const RowRange rows = conv_rows(p_, first, last);
    return {number / plan_.bands, first, last, rows, (rows.end - rows.begin + kTile - 1) / kTile};
  }

  void multiply_points(int64_t unit, const float* inputs, const float* weights, int64_t vectors) {
    // Only an image's last band may have fewer tiles than the others: its place is left empty.
    const int64_t last = bands_of(unit) - 1;
    const int64_t tiles = last * plan_.band_tiles() + band_at(unit * plan_.unit_bands + last).tile_rows * plan_.tiles_x;
    const int64_t channels = plan_.direct.group_in_channels, max_chains = chains_of_group(channels);
    for (int64_t point = 0; point < kPoints; ++point) {
      float* sums = sums_.data() + point * sums_stride();
      const auto multiply = [&]<int Vectors>() {
        multiply_rows<Vectors>(
            {inputs + point * plan_.point_stride(), plan_.pixel, weights + point * weight_stride(plan_.direct),
             Vectors * kLanes, channels, kMaxChain, max_chains, sums},
            tiles, [sums](int64_t tile, int v, const Vec& sum) FASTVISION_INLINE {
              sum.store(sums + (tile * Vectors + v) * kLanes);
            });
      };
      vectors == 2 ? multiply.template operator()<2>() : multiply.template operator()<1>();
    }
  }

  const WinogradConvolution& work_;
  const ConvPool2d& p_;
  const WinogradPlan& plan_;
  const float* biases_;
  FloatScratch strip_, sums_, rows_;
};

// Few tiles: all inputs first, then block by block with the block's weights made on the way.
void run_by_blocks(const WinogradConvolution& work, const Layer& layer, const float* biases, const float* kept,
                   Context& context) {
  const WinogradPlan& plan = work.plan;
  const int64_t units = plan.units * work.problem.groups;
  const int64_t inputs_size = UnitWorker::inputs_size(plan);
  auto* inputs = static_cast<float*>(context.allocate(sizeof(float) * units * inputs_size));
  context.parallel_for(units, [&](int64_t begin, int64_t end) {
    UnitWorker worker(work, biases);
    for (int64_t i = begin; i < end; ++i) {
      worker.transform_inputs(i / plan.units, i % plan.units, inputs + i * inputs_size);
    }
  });
  const int64_t blocks = plan.direct.blocks;
  context.parallel_for(work.problem.groups * blocks, [&](int64_t begin, int64_t end) {
    UnitWorker worker(work, biases);
    const int64_t size = weight_block_size(plan.direct);
    FloatScratch transformed(kept ? 0 : size);
    for (int64_t block = begin; block < end; ++block) {
      if (!kept) transform_weights(work.problem, plan.direct, layer, block, transformed.data());
      const float* weights = kept ? kept + block * size : transformed.data();
      const int64_t group = block / blocks;
      for (int64_t unit = 0; unit < plan.units; ++unit) {
        worker.compute_block(group, unit, block % blocks, inputs + (group * plan.units + unit) * inputs_size, weights);
      }
    }
  });
}

const float* transform_all(const WinogradConvolution& work, const Layer& layer, Context& context) {
  auto* transformed =
      static_cast<float*>(context.allocate(sizeof(float) * weight_size(work.problem, work.plan.direct)));
  transform_all_weights(work.problem, work.plan.direct, layer, transformed, context);
  return transformed;
}

// Many tiles: all weights first, then unit by unit.
void run_by_units(const WinogradConvolution& work, const Layer& layer, const float* biases, const float* kept,
                  Context& context) {
  const WinogradPlan& plan = work.plan;
  const int64_t blocks = plan.direct.blocks, size = weight_block_size(plan.direct);
  const float* weights = kept ? kept : transform_all(work, layer, context);
  context.parallel_for(work.problem.groups * plan.units * plan.block_sets, [&](int64_t begin, int64_t end) {
    UnitWorker worker(work, biases);
    FloatScratch inputs(UnitWorker::inputs_size(plan));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t set = i % plan.block_sets;
      const int64_t unit = i / plan.block_sets % plan.units;
      const int64_t group = i / plan.block_sets / plan.units;
      worker.transform_inputs(group, unit, inputs.data());
      for (int64_t b = blocks * set / plan.block_sets; b < blocks * (set + 1) / plan.block_sets; ++b) {
        worker.compute_block(group, unit, b, inputs.data(), weights + (group * blocks + b) * size);
      }
    }
  });
}

}  // namespace

void run(const WinogradConvolution& work, const Layer& layer, Context& context) {
  const float* biases = pack_bias(work.problem, work.plan.direct, layer.bias, context);
  const auto kept = work.keeps_weights ? kept_weights(work.problem, work.plan.direct, layer, context) : nullptr;
  const auto run_in_order = work.plan.weights_inside ? run_by_blocks : run_by_units;
  run_in_order(work, layer, biases, kept.get(), context);
}

}  // namespace fastvision

// The gradient of the weight: a matrix product of inputs and output gradients over all pixels. The
// register tile holds some taps x a block of output channels; each step is a pixel.
#include "conv/cpu/grad_weight.h"

#include <array>

#include "conv/cpu/parts.h"
#include "conv/cpu/strip.h"
#include "conv/cpu/tile.h"
#include "core/scratch.h"

namespace fastvision {
namespace {

// Pixels in a row into one register, then to memory: as kMaxChain for the forward pass.
constexpr int64_t kMaxChain = 128;

// Inputs and gradients of a band of rows stay in L2.
constexpr int64_t kBandBytes = 256 * 1024;

// Some rows of gradients of a block of channels, [row][column][channel of the block], and the inputs under them.
struct BandInput {
  const float* input;
  int64_t input_row, input_column;  // strides from row to row and column to column of outputs
  const float* gradient;
  int64_t gradient_row, pixel;
  int64_t rows, columns;
};

// Adds the band's share to sums[tap][channel] for taps of one run: Columns from `first`, Columns from `second`.
template <int Columns, int Vectors>
__attribute__((noinline)) void add_taps(const BandInput& band, int64_t first, int64_t second, float* first_sums,
                                        float* second_sums) {
  const int64_t rows_at_once = std::max<int64_t>(1, kMaxChain / band.columns);
  const int64_t columns_at_once = std::min(band.columns, kMaxChain);
  for (int64_t y = 0; y < band.rows; y += rows_at_once) {
    for (int64_t x = 0; x < band.columns; x += columns_at_once) {
      Tile<Columns, Vectors> tile;
      for_each_sum<Columns, Vectors>([&](int row, int i, int v) FASTVISION_INLINE { tile.sum[row][i][v] = Vec(0.f); });
      for (int64_t r = y; r < std::min(y + rows_at_once, band.rows); ++r) {
        const float* input = band.input + r * band.input_row + x * band.input_column;
        multiply_add(tile, input + first, input + second, One(), band.input_column,
                     band.gradient + r * band.gradient_row + x * band.pixel, band.pixel,
                     std::min(columns_at_once, band.columns - x));
      }
      Vec sums[2][Columns][Vectors];  // the halves may share a tap: read both before writing
      for_each_sum<Columns, Vectors>([&](int row, int i, int v) FASTVISION_INLINE {
        const float* from = (row ? second_sums : first_sums) + i * band.pixel + v * kLanes;
        sums[row][i][v] = Vec::loadu(from) + tile.sum[row][i][v];
      });
      for_each_sum<Columns, Vectors>([&](int row, int i, int v) FASTVISION_INLINE {
        sums[row][i][v].store((row ? second_sums : first_sums) + i * band.pixel + v * kLanes);
      });
    }
  }
}

using AddTaps = void (*)(const BandInput&, int64_t, int64_t, float*, float*);

template <int Vectors, int... Columns>
constexpr std::array<AddTaps, kMaxColumns> add_taps_by_columns(std::integer_sequence<int, Columns...>) {
  return {&add_taps<Columns + 1, Vectors>...};
}

void add_run(const BandInput& band, const TapRun& run, int64_t vectors, float* sums) {
  constexpr auto columns = std::make_integer_sequence<int, kMaxColumns>();
  static constexpr std::array kernels{add_taps_by_columns<1>(columns), add_taps_by_columns<2>(columns)};
  constexpr int64_t kTile = 2 * kMaxColumns;
  const int64_t count = ceil_div(run.length, kTile);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = run.length * i / count;
    const int64_t end = run.length * (i + 1) / count;
    const int64_t half = (end - begin + 1) / 2;
    kernels[vectors - 1][half - 1](band, run.offset + begin, run.offset + end - half, sums + begin * band.pixel,
                                   sums + (end - half) * band.pixel);
  }
}

void add_bias(const BandInput& band, int64_t vectors, float* sums) {
  for (int64_t channel = 0; channel < vectors * kLanes; channel += kLanes) {
    Vec total = Vec::loadu(sums + channel);
    for (int64_t y = 0; y < band.rows; ++y) {
      Vec row(0.f);
      for (int64_t x = 0; x < band.columns; ++x) {
        row = row + Vec::loadu(band.gradient + y * band.gradient_row + x * band.pixel + channel);
      }
      total = total + row;
    }
    total.store(sums + channel);
  }
}

// The convolution without its pool: its bands share no rows, so that no pixel counts twice.
ConvPool2d without_pool(const ConvPool2d& p) {
  ConvPool2d q = p;
  q.pool = Pool::none;
  q.pool_kernel_h = q.pool_kernel_w = q.pool_stride_h = q.pool_stride_w = 1;
  q.pool_pad_h = q.pool_pad_w = 0;
  q.out_h = p.conv_h;
  q.out_w = p.conv_w;
  return q;
}

class GradWeight {
 public:
  GradWeight(const ConvPool2d& p, const ConvPool2dBackward& tensors)
      : p_(p),
        tensors_(tensors),
        conv_(without_pool(p)),
        plan_(make_direct_plan(conv_, kLanes, InputChoice::interleaved)) {
    const int64_t row_floats = p.stride_h * plan_.row_stride + p.conv_w * plan_.block_channels;
    band_rows_ = std::clamp<int64_t>(kBandBytes / 4 / row_floats, 1, p.conv_h);
    bands_ = ceil_div(p.conv_h, band_rows_);
    parts_ = count_parts(part_size(), p.batch * bands_);
  }

  void run(Context& context) {
    auto* parts = static_cast<float*>(context.allocate(sizeof(float) * parts_ * part_size()));
    context.parallel_for(parts_, [&](int64_t begin, int64_t end) {
      FloatScratch strip(input_strip_size()), gradient(gradient_strip_size());
      for (int64_t i = begin; i < end; ++i) {
        float* part = parts + i * part_size();
        std::fill_n(part, part_size(), 0.f);
        const int64_t work = p_.batch * bands_;
        for (int64_t unit = work * i / parts_; unit < work * (i + 1) / parts_; ++unit) {
          add_band(unit / bands_, unit % bands_ * band_rows_, strip.data(), gradient.data(), part);
        }
      }
    });
    context.parallel_for(blocks(), [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) finish_block(block, parts);
    });
  }

 private:
  int64_t blocks() const { return p_.groups * plan_.blocks; }
  int64_t sums_per_block() const { return (plan_.tap_count + 1) * plan_.block_channels; }  // the last row is the bias
  int64_t part_size() const { return blocks() * sums_per_block(); }
  int64_t strip_rows(int64_t rows) const { return (rows - 1) * p_.stride_h + (p_.kernel_h - 1) * p_.dilation_h + 1; }
  int64_t input_strip_size() const { return plan_.in_place ? 0 : strip_rows(band_rows_) * plan_.row_stride; }
  int64_t gradient_strip_size() const { return band_rows_ * p_.conv_w * plan_.block_channels; }
  int64_t channels_of(int64_t block) const {
    return std::min(plan_.block_channels, plan_.group_out_channels - block % plan_.blocks * plan_.block_channels);
  }
  int64_t first_channel_of(int64_t block) const {
    return block / plan_.blocks * plan_.group_out_channels + block % plan_.blocks * plan_.block_channels;
  }

  void add_band(int64_t image, int64_t first, float* strip, float* gradient, float* part) const {
    const int64_t rows = std::min(band_rows_, p_.conv_h - first);
    BandInput band{strip,
                   p_.stride_h * plan_.row_stride,
                   plan_.column_stride,
                   gradient,
                   p_.conv_w * plan_.block_channels,
                   plan_.block_channels,
                   rows,
                   p_.conv_w};
    for (int64_t group = 0; group < p_.groups; ++group) {
      if (plan_.in_place) {
        band.input = static_cast<const float*>(tensors_.input) + image * p_.input_strides.n +
                     group * plan_.group_in_channels + first * band.input_row;
      } else {
        ImageStrips(conv_, plan_, tensors_.input).pack(image, group, first * p_.stride_h, strip_rows(rows), strip);
      }
      for (int64_t block = group * plan_.blocks; block < (group + 1) * plan_.blocks; ++block) {
        std::fill_n(gradient, rows * band.gradient_row, 0.f);
        unpool(p_, {tensors_.grad_output, tensors_.selection}, image,
               {gradient, first, rows, 0, p_.conv_w, first_channel_of(block), channels_of(block), band.gradient_row,
                band.pixel});
        add_block(band, channels_of(block) > kLanes ? 2 : 1, part + block * sums_per_block());
      }
    }
  }

  void add_block(const BandInput& band, int64_t vectors, float* sums) const {
    if (tensors_.grad_weight) {
      for (const TapRun& run : plan_.taps) {
        add_run(band, run, vectors, sums);
        sums += run.length * band.pixel;
      }
    } else {
      sums += plan_.tap_count * band.pixel;
    }
    if (tensors_.grad_bias) add_bias(band, vectors, sums);
  }

  // Adds the parts and writes the block's gradients in the weight's order.
  void finish_block(int64_t block, float* parts) const {
    float* sums = parts + block * sums_per_block();
    add_parts(sums, sums_per_block(), parts_, part_size());
    visit_dtype(p_.dtype, [&]<class T>() {
      const int64_t channel = first_channel_of(block);
      if (tensors_.grad_weight) {
        write_weight(sums, channels_of(block), static_cast<T*>(tensors_.grad_weight) + channel * plan_.tap_count);
      }
      if (tensors_.grad_bias) {
        convert_row(sums + plan_.tap_count * plan_.block_channels, static_cast<T*>(tensors_.grad_bias) + channel,
                    channels_of(block));
      }
    });
  }

  // From [(row, column, channel)][out] to [out][(channel, row, column)].
  template <class T>
  void write_weight(const float* sums, int64_t channels, T* weight) const {
    const int64_t window = p_.kernel_h * p_.kernel_w;
    float rows[kLanes * kMaxVectors * kLanes];
    for (int64_t k = 0; k < plan_.tap_count; k += kLanes) {
      const int64_t n = std::min(kLanes, plan_.tap_count - k);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t tap = (k + i) % window * plan_.group_in_channels + (k + i) / window;
        std::copy_n(sums + tap * plan_.block_channels, channels, rows + i * plan_.block_channels);
      }
      transpose(rows, plan_.block_channels, n, channels, weight + k, plan_.tap_count);
    }
  }

  const ConvPool2d& p_;
  const ConvPool2dBackward& tensors_;
  const ConvPool2d conv_;
  const DirectPlan plan_;
  int64_t band_rows_, bands_, parts_;
};

}  // namespace

void direct_grad_weight(const ConvPool2d& p, const ConvPool2dBackward& tensors, Context& context) {
  GradWeight(p, tensors).run(context);
}

}  // namespace fastvision

// The gradient of the weight, winner by winner: the inputs under the kernel at a winner, times its gradient, are
// added to sums held in registers. A kernel row lies in a row of memory, [column][input channel of the block], and
// is read as vectors: with many channels each is one tap of kLanes channels, with few it spans several taps.
#include <array>
#include <atomic>
#include <numeric>
#include <vector>

#include "conv/cpu/living.h"
#include "conv/cpu/parts.h"
#include "conv/cpu/sparse.h"
#include "conv/cpu/unpool.h"
#include "core/integers.h"
#include "core/scratch.h"

namespace fastvision {
namespace {

// Registers of sums; the loop needs one for the gradient.
constexpr int kMaxSums = 10;
constexpr int kMaxRows = 3;
constexpr int kMaxVectors = kMaxSparseKernelWidth;
// Fewer sums than these wait for each other's additions: two winners at once have two sets of them.
constexpr int kMinSums = 7;

// Pooled pixels of a tile: a block of the inputs under them stays in L1, their lists in L2.
constexpr int64_t kTilePixels = 1024 / kLanes;
constexpr int64_t kTileRows = 4;

// Inputs of a band of tiles, all channels: they stay in L2.
constexpr int64_t kBandBytes = 192 * 1024;

// sums[row][vector] += gradient * input[offset][row][vector] over the list.
template <int Rows, int Vectors>
__attribute__((noinline)) void add_living(const float* input, int64_t input_row, const LivingList& list, float* sums) {
  constexpr int kSums = Rows * Vectors;
  constexpr int kSets = kSums < kMinSums ? 2 : 1;
  for (int64_t chain = 0; chain < list.count; chain += kMaxLivingChain) {
    Vec sum[kSets][kSums];
    unroll<kSets * kSums>([&](int i) FASTVISION_INLINE { sum[i / kSums][i % kSums] = Vec(0.f); });
    const auto add = [&](int64_t living, int set) FASTVISION_INLINE {
      const Vec gradient(list.gradients[living]);
      const float* at = input + list.offsets[living];
      unroll<kSums>([&](auto i) FASTVISION_INLINE {
        constexpr int kRow = decltype(i)::value / Vectors, kVector = decltype(i)::value % Vectors;
        sum[set][i] = at::vec::fmadd(gradient, Vec::loadu(at + kRow * input_row + kVector * kLanes), sum[set][i]);
      });
    };
    int64_t living = chain;
    const int64_t end = std::min(chain + kMaxLivingChain, list.count);
    for (; living + kSets <= end; living += kSets) {
      unroll<kSets>([&](int set) FASTVISION_INLINE { add(living + set, set); });
    }
    if (kSets > 1 && living != end) add(living, 0);
    unroll<kSums>([&](int i) FASTVISION_INLINE {
      const Vec total = kSets > 1 ? sum[0][i] + sum[kSets - 1][i] : sum[0][i];
      (Vec::loadu(sums + i * kLanes) + total).store(sums + i * kLanes);
    });
  }
}

using AddLiving = void (*)(const float*, int64_t, const LivingList&, float*);

constexpr int rows_at_once(int vectors) {
  return std::min(kMaxRows, kMaxSums / vectors);
}

template <int Vectors>
constexpr std::array<AddLiving, kMaxRows> add_living_by_rows() {
  return {&add_living<1, Vectors>, &add_living<std::min(2, rows_at_once(Vectors)), Vectors>,
          &add_living<rows_at_once(Vectors), Vectors>};
}

AddLiving add_living_for(int64_t rows, int64_t vectors) {
  static constexpr std::array kernels = []<int... V>(std::integer_sequence<int, V...>) {
    return std::array{add_living_by_rows<V + 1>()...};
  }(std::make_integer_sequence<int, kMaxVectors>());
  return kernels[vectors - 1][rows - 1];
}

// Tiles of pooled pixels [first_row, last_row) x [first_column, last_column).
struct PooledTile {
  int64_t image, first_row, last_row, first_column, last_column;
};

class SparseGradWeight {
 public:
  SparseGradWeight(const ConvPool2d& p, const ConvPool2dBackward& tensors)
      : p_(p),
        tensors_(tensors),
        in_(p.in_channels / p.groups),
        out_(p.out_channels / p.groups),
        block_(std::min(in_, kLanes)),
        blocks_(ceil_div(in_, block_)),
        vectors_(ceil_div(p.kernel_w * block_, kLanes)),
        width_((p.conv_w - 1) * p.stride_w + p.kernel_w),
        tile_rows_(std::min(kTileRows, p.out_h)),
        tile_columns_(ceil_div(p.out_w, ceil_div(p.out_w, kTilePixels / tile_rows_))),
        list_size_(ceil_div(tile_rows_ * tile_columns_ + kLanes, 16) * 16 + kListPadding) {
    const int64_t bytes = 4 * row_size() * blocks_;
    const int64_t rows = std::max<int64_t>(kBandBytes / bytes - input_rows(1), 0) / (p.pool_stride_h * p.stride_h) + 1;
    band_rows_ = std::min(p.out_h, rows > tile_rows_ ? rows / tile_rows_ * tile_rows_ : rows);
    bands_ = ceil_div(p.out_h, band_rows_);
    block_rows_ = input_rows(band_rows_);
    parts_ = count_parts(part_size(), p.batch * bands_);
  }

  bool run(Context& context) {
    auto* parts = static_cast<float*>(context.allocate(sizeof(float) * parts_ * part_size()));
    std::atomic<bool> finite = true;
    context.parallel_for(parts_, [&](int64_t begin, int64_t end) {
      FloatScratch strip(strip_size()), pixels(p_.in_w * in_), gradients(out_ * row_pixels()),
          list_gradients(out_ * list_size_);
      std::vector<uint8_t> codes(out_ * row_pixels());
      std::vector<int32_t> offsets(row_pixels()), list_offsets(out_ * list_size_);
      std::vector<int64_t> counts(out_);
      const Scratch scratch{strip.data(),   pixels.data(),       gradients.data(),      codes.data(),
                            offsets.data(), list_offsets.data(), list_gradients.data(), counts.data()};
      std::fill_n(strip.data(), strip_size(), 0.f);
      for (int64_t i = begin; i < end; ++i) {
        if (!add_part(i, scratch, parts + i * part_size())) finite = false;
      }
    });
    if (!finite) return false;
    context.parallel_for(p_.out_channels, [&](int64_t begin, int64_t end) {
      for (int64_t channel = begin; channel < end; ++channel) finish_channel(channel, parts);
    });
    return true;
  }

 private:
  struct Scratch {
    float* strip;   // inputs of a band, [block][row][column][channel]
    float* pixels;  // one row of inputs, channels_last
    // One pooled row of a tile: gradients and selection as [channel][column], and where in a block of the
    // strip the inputs of the windows begin.
    float* gradients;
    uint8_t* codes;
    int32_t* offsets;
    // The tile's living, [channel][winner].
    int32_t* list_offsets;
    float* list_gradients;
    int64_t* counts;
  };
  static constexpr int64_t kListPadding = 16;  // neighbouring lists must not share a set of L1

  int64_t row_size() const { return width_ * block_; }
  int64_t row_pixels() const { return ceil_div(tile_columns_, kLanes) * kLanes; }
  LivingList list_of(const Scratch& s, int64_t channel) const {
    return {s.list_offsets + channel * list_size_, s.list_gradients + channel * list_size_, s.counts[channel]};
  }
  int64_t input_rows(int64_t rows) const {
    const int64_t conv_rows = std::min((rows - 1) * p_.pool_stride_h + p_.pool_kernel_h, p_.conv_h);
    return (conv_rows - 1) * p_.stride_h + (p_.kernel_h - 1) * p_.dilation_h + 1;
  }
  // The last vector of a row may reach beyond it.
  int64_t strip_size() const { return blocks_ * block_rows_ * row_size() + kLanes; }
  // Sums of one output channel: [block][kernel row][vector], then lanes of the bias' gradient.
  int64_t kernel_size() const { return p_.kernel_h * vectors_ * kLanes; }
  int64_t channel_sums() const { return blocks_ * kernel_size() + kLanes; }
  int64_t part_size() const { return p_.out_channels * channel_sums(); }

  bool add_part(int64_t part, const Scratch& s, float* sums) const {
    bool finite = true;
    std::fill_n(sums, part_size(), 0.f);
    const int64_t work = p_.batch * bands_;
    for (int64_t unit = work * part / parts_; unit < work * (part + 1) / parts_; ++unit) {
      for (int64_t group = 0; group < p_.groups; ++group) {
        if (!add_band(unit / bands_, unit % bands_ * band_rows_, group, s, sums)) finite = false;
      }
    }
    return finite;
  }

  bool add_band(int64_t image, int64_t first, int64_t group, const Scratch& s, float* sums) const {
    const int64_t last = std::min(first + band_rows_, p_.out_h);
    const PoolSpan top = pool_span(first, p_.pool_kernel_h, p_.pool_stride_h, p_.pool_pad_h, p_.conv_h, true);
    const PoolSpan bottom = pool_span(last - 1, p_.pool_kernel_h, p_.pool_stride_h, p_.pool_pad_h, p_.conv_h, true);
    const int64_t rows = (bottom.end - top.begin - 1) * p_.stride_h + (p_.kernel_h - 1) * p_.dilation_h + 1;
    if (tensors_.grad_weight) pack(image, group, top.begin * p_.stride_h, rows, s);
    const bool finite = all_finite(s.strip, strip_size());
    for (int64_t y = first; y < last; y += tile_rows_) {
      for (int64_t x = 0; x < p_.out_w; x += tile_columns_) {
        const PooledTile tile{image, y, std::min(y + tile_rows_, last), x, std::min(x + tile_columns_, p_.out_w)};
        list_living(tile, top.begin, group, s);
        add_bias(group, s, sums);
        if (tensors_.grad_weight) add_tile(group, s, sums);
      }
    }
    return finite;
  }

  // Rows [first, first + rows) of the padded image, counted from the top of the padding.
  void pack(int64_t image, int64_t group, int64_t first, int64_t rows, const Scratch& s) const {
    const int64_t left = std::min(p_.pad_left, width_);
    const int64_t columns = std::min(p_.in_w, width_ - left);
    visit_dtype(p_.dtype, [&]<class T>() {
      const T* origin =
          static_cast<const T*>(tensors_.input) + image * p_.input_strides.n + group * in_ * p_.input_strides.c;
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t y = first + row - p_.pad_top;
        float* target = s.strip + row * row_size();
        for (int64_t b = 0; b < blocks_; ++b) {
          float* to = target + b * block_rows_ * row_size();
          const int64_t end = y < 0 || y >= p_.in_h ? 0 : left + columns;
          if (left) std::fill_n(to, left * block_, 0.f);
          std::fill(to + end * block_, to + row_size(), 0.f);
        }
        if (y >= 0 && y < p_.in_h && columns > 0) {
          pack_row(origin + y * p_.input_strides.h, columns, s, target + left * block_);
        }
      }
    });
  }

  template <class T>
  void pack_row(const T* row, int64_t columns, const Scratch& s, float* target) const {
    const bool planar = p_.input_strides.w == 1;
    const float* pixels = s.pixels;
    if (!planar) {
      for (int64_t x = 0; x < columns; ++x) convert_row(row + x * p_.input_strides.w, s.pixels + x * in_, in_);
    }
    for (int64_t b = 0; b < blocks_; ++b, target += block_rows_ * row_size()) {
      const int64_t channels = std::min(block_, in_ - b * block_);
      if (planar && block_ < kLanes) {
        interleave(row, columns, target);
      } else if (planar) {
        transpose(row + b * block_ * p_.input_strides.c, p_.input_strides.c, channels, columns, target, block_);
      } else {
        for (int64_t x = 0; x < columns; ++x) {
          Vec::loadu(pixels + x * in_ + b * block_, channels).store(target + x * block_, block_);
        }
      }
    }
  }

  // A square with missing rows takes the transpose several times as long.
  template <class T>
  void interleave(const T* row, int64_t columns, float* target) const {
    for (int64_t c = 0; c < in_; ++c, row += p_.input_strides.c) {
      for (int64_t x = 0; x < columns; ++x) target[x * in_ + c] = static_cast<float>(row[x]);
    }
  }

  // Lists the tile's living by output channel.
  void list_living(const PooledTile& tile, int64_t first_conv_row, int64_t group, const Scratch& s) const {
    const PooledGradient from{tensors_.grad_output, tensors_.selection};
    const int64_t columns = tile.last_column - tile.first_column;
    std::fill_n(s.counts, out_, 0);
    for (int64_t y = tile.first_row; y < tile.last_row; ++y) {
      load_gradient_rows(p_, from, {tile.image, y, tile.first_column, columns, group * out_, out_}, s.gradients,
                         row_pixels());
      transpose_codes(selection_at(p_, from, tile.image, y, tile.first_column) + group * out_, p_.out_channels, columns,
                      out_, s.codes, row_pixels());
      locate_windows(y * p_.pool_stride_h - p_.pool_pad_h - first_conv_row,
                     tile.first_column * p_.pool_stride_w - p_.pool_pad_w, columns, s.offsets);
      append_row(columns, s);
    }
  }

  // Where the inputs of each window's first place lie; that of the first window is (row, column) of the band's
  // convolution outputs. A place outside of the image never wins.
  void locate_windows(int64_t row, int64_t column, int64_t columns, int32_t* offsets) const {
    const int64_t first = row * p_.stride_h * row_size() + column * p_.stride_w * block_;
    const int64_t step = p_.pool_stride_w * p_.stride_w * block_;
    for (int64_t x = 0; x < columns; ++x) offsets[x] = static_cast<int32_t>(first + x * step);
  }

  std::array<int32_t, kTableSize> place_offsets() const {
    std::array<int32_t, kTableSize> places{};
    for (int64_t i = 0; i < p_.pool_kernel_h * p_.pool_kernel_w; ++i) {
      places[i] = static_cast<int32_t>(i / p_.pool_kernel_w * p_.stride_h * row_size() +
                                       i % p_.pool_kernel_w * p_.stride_w * block_);
    }
    return places;
  }

  __attribute__((noinline)) void append_row(int64_t columns, const Scratch& s) const {
    const std::array<int32_t, kTableSize> places = place_offsets();
    const uint8_t* codes = s.codes;
    const float* gradients = s.gradients;
    int32_t* list_offsets = s.list_offsets;
    float* list_gradients = s.list_gradients;
    constexpr uint32_t kAllLanes = (1u << kLanes) - 1;
    // A selection that no forward pass has made must not lead out of the strip.
    const IntVec largest(static_cast<int32_t>((block_rows_ - (p_.kernel_h - 1) * p_.dilation_h - 1) * row_size() +
                                              (p_.conv_w - 1) * p_.stride_w * block_));
    for (int64_t o = 0; o < out_; ++o) {
      int64_t count = s.counts[o];
      for (int64_t x = 0; x < columns; x += kLanes) {
        const IntVec offsets =
            at::vec::clamp(IntVec::loadu(s.offsets + x) + lookup(places.data(), codes + x), IntVec(0), largest);
        append_living(offsets, Vec::loadu(gradients + x), bytes_equal(codes + x, kDead) ^ kAllLanes, list_offsets,
                      list_gradients, count);
      }
      s.counts[o] = count;
      codes += row_pixels();
      gradients += row_pixels();
      list_offsets += list_size_;
      list_gradients += list_size_;
    }
  }

  void add_bias(int64_t group, const Scratch& s, float* sums) const {
    float* bias = sums + group * out_ * channel_sums() + blocks_ * kernel_size();
    for (int64_t o = 0; o < out_; ++o, bias += channel_sums()) {
      const LivingList list = list_of(s, o);
      Vec sum(0.f);
      int64_t i = 0;
      for (; i + kLanes <= list.count; i += kLanes) sum = sum + Vec::loadu(list.gradients + i);
      if (i < list.count) sum = sum + Vec::loadu(list.gradients + i, list.count - i);
      (Vec::loadu(bias) + sum).store(bias);
    }
  }

  void add_tile(int64_t group, const Scratch& s, float* sums) const {
    const int64_t pieces = ceil_div(p_.kernel_h, rows_at_once(vectors_));
    const int64_t input_row = p_.dilation_h * row_size();
    for (int64_t b = 0; b < blocks_; ++b) {
      for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t first = p_.kernel_h * piece / pieces;
        const AddLiving add = add_living_for(p_.kernel_h * (piece + 1) / pieces - first, vectors_);
        const float* input = s.strip + b * block_rows_ * row_size() + first * input_row;
        float* target = sums + group * out_ * channel_sums() + b * kernel_size() + first * vectors_ * kLanes;
        for (int64_t o = 0; o < out_; ++o, target += channel_sums()) {
          add(input, input_row, list_of(s, o), target);
        }
      }
    }
  }

  void finish_channel(int64_t channel, float* parts) const {
    float* sums = parts + channel * channel_sums();
    add_parts(sums, channel_sums(), parts_, part_size());
    visit_dtype(p_.dtype, [&]<class T>() {
      if (tensors_.grad_bias) {
        const float* bias = sums + blocks_ * kernel_size();
        static_cast<T*>(tensors_.grad_bias)[channel] = T(std::accumulate(bias, bias + kLanes, 0.f));
      }
      if (!tensors_.grad_weight) return;
      T* weight = static_cast<T*>(tensors_.grad_weight) + channel * in_ * p_.kernel_h * p_.kernel_w;
      for (int64_t c = 0; c < in_; ++c) {
        for (int64_t r = 0; r < p_.kernel_h; ++r) {
          const float* row = sums + c / block_ * kernel_size() + r * vectors_ * kLanes + c % block_;
          for (int64_t k = 0; k < p_.kernel_w; ++k) *weight++ = T(row[k * block_]);
        }
      }
    });
  }

  const ConvPool2d& p_;
  const ConvPool2dBackward& tensors_;
  const int64_t in_, out_;        // channels of a group
  const int64_t block_, blocks_;  // input channels of a block
  const int64_t vectors_;         // of a kernel row
  const int64_t width_;           // of a strip, padding included
  const int64_t tile_rows_, tile_columns_;
  const int64_t list_size_;
  int64_t band_rows_, bands_, block_rows_, parts_;
};

}  // namespace

bool sparse_grad_weight(const ConvPool2d& p, const ConvPool2dBackward& tensors, Context& context) {
  return SparseGradWeight(p, tensors).run(context);
}

}  // namespace fastvision

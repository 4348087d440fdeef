// The gradient of the input, window by window: a pooled pixel's winners lie in one pooling window, which reaches a
// small window of inputs. That is held in registers, a vector of input channels for each of its pixels, while the
// weights of the living output channels are added.
#include <array>
#include <atomic>
#include <vector>

#include "conv/cpu/living.h"
#include "conv/cpu/sparse.h"
#include "conv/cpu/unpool.h"
#include "core/integers.h"
#include "core/scratch.h"

namespace fastvision {
namespace {

constexpr int kKernel = 3;
constexpr int kTaps = kKernel * kKernel;
constexpr int kMaxPool = 3;
constexpr int kMaxRows = kMaxPool + kKernel - 1;

// Output channels at once: their weights for one block of input channels stay in L1, and no sum is longer.
constexpr int64_t kMaxChunk = 64;
static_assert(kMaxChunk <= kMaxLivingChain);

// Pooled pixels of a row at once: their lists stay in L2.
constexpr int64_t kMaxColumns = 64;

// Images are cut into bands of rows for threads: so many units of work there are at least, if the images have the
// rows. A band repeats the windows on its edge.
constexpr int64_t kUnits = 4;
constexpr int64_t kMinBandRows = 24, kMaxBandRows = 64;

// The living output channels of some pooled pixels in a row, by the place of their winner in the pooling window:
// so bucketed, the inner loop's registers are known at compile time. Offsets are those of the channels' weights.
class WinnerLists {
 public:
  WinnerLists(int64_t places, int64_t chunk)
      : places_(places),
        size_(chunk + 2 * kLanes),  // whole vectors are stored
        channel_offsets_(chunk + kLanes),
        offsets_(kMaxColumns * places * size_),
        gradients_(kMaxColumns * places * size_),
        counts_(kMaxColumns * places) {
    for (size_t o = 0; o < channel_offsets_.size(); ++o) channel_offsets_[o] = static_cast<int32_t>(o) * kTaps * kLanes;
  }

  LivingList list(int64_t column, int64_t place) const {
    const int64_t index = column * places_ + place;
    return {offsets_.data() + index * size_, gradients_.data() + index * size_, counts_[index]};
  }

  __attribute__((noinline)) void fill(int64_t column, const uint8_t* codes, const float* gradients, int64_t channels) {
    std::array<int64_t, kMaxPool * kMaxPool> counts{};
    int64_t o = 0;
    for (; o + kLanes <= channels; o += kLanes) add(column, codes + o, Vec::loadu(gradients + o), o, counts);
    if (const int64_t rest = channels - o) {
      uint8_t last[kLanes];
      std::fill(std::copy_n(codes + o, rest, last), last + kLanes, kDead);
      add(column, last, Vec::loadu(gradients + o, rest), o, counts);
    }
    for (int64_t place = 0; place < places_; ++place) counts_[column * places_ + place] = counts[place];
  }

 private:
  FASTVISION_INLINE void add(int64_t column, const uint8_t* codes, const Vec& gradients, int64_t channel,
                             std::array<int64_t, kMaxPool * kMaxPool>& counts) {
    const IntVec offsets = IntVec::loadu(channel_offsets_.data() + channel);
    int64_t at = column * places_ * size_;
    for (int64_t place = 0; place < places_; ++place, at += size_) {
      append_living(offsets, gradients, bytes_equal(codes, static_cast<uint8_t>(place)), offsets_.data() + at,
                    gradients_.data() + at, counts[place]);
    }
  }

  int64_t places_, size_;
  std::vector<int32_t> channel_offsets_;
  std::vector<int32_t> offsets_;  // [column][place][channel]
  std::vector<float> gradients_;  // the same
  std::vector<int64_t> counts_;   // [column][place]
};

// Adds one pooled pixel's gradients to the window of inputs at `column` of `rows`. A row of the window leaves the
// registers as soon as no winner reaches it: with a 2x2 pool 12 sums are alive at once, which AVX2 can hold.
template <int Pool>
__attribute__((noinline)) void add_window(const WinnerLists& lists, int64_t pixel, const float* weights,
                                          float* const* rows, int64_t column) {
  constexpr int kRows = Pool + kKernel - 1, kColumns = Pool + kKernel - 1;
  Vec sum[kRows][kColumns];
  const auto start_row = [&](int row) FASTVISION_INLINE {
    unroll<kColumns>([&](int i) FASTVISION_INLINE { sum[row][i] = Vec(0.f); });
  };
  const auto finish_row = [&](int row) FASTVISION_INLINE {
    float* target = rows[row] + column * kLanes;
    unroll<kColumns>(
        [&](int i) FASTVISION_INLINE { (Vec::loadu(target + i * kLanes) + sum[row][i]).store(target + i * kLanes); });
  };
  unroll<kKernel - 1>([&](int row) FASTVISION_INLINE { start_row(row); });
  unroll<Pool>([&](auto y) FASTVISION_INLINE {
    constexpr int kY = decltype(y)::value;
    start_row(kY + kKernel - 1);
    unroll<Pool>([&](auto x) FASTVISION_INLINE {
      constexpr int kX = decltype(x)::value;
      const LivingList list = lists.list(pixel, kY * Pool + kX);
      for (int64_t i = 0; i < list.count; ++i) {
        const float* w = weights + list.offsets[i];
        const Vec gradient(list.gradients[i]);
        unroll<kTaps>([&](auto tap) FASTVISION_INLINE {
          constexpr int kTap = decltype(tap)::value;
          Vec& s = sum[kY + kTap / kKernel][kX + kTap % kKernel];
          s = at::vec::fmadd(gradient, Vec::loadu(w + kTap * kLanes), s);
        });
      }
    });
    finish_row(kY);
  });
  unroll<kKernel - 1>([&](int row) FASTVISION_INLINE { finish_row(Pool + row); });
}

class SparseGradInput {
 public:
  SparseGradInput(const ConvPool2d& p, const ConvPool2dBackward& tensors)
      : p_(p),
        tensors_(tensors),
        in_(p.in_channels / p.groups),
        out_(p.out_channels / p.groups),
        blocks_(ceil_div(in_, kLanes)),
        chunk_(ceil_div(out_, ceil_div(out_, kMaxChunk))),
        rows_(p.pool_kernel_h + kKernel - 1),
        width_(std::max((p.out_w - 1) * p.pool_stride_w + p.pool_kernel_w + kKernel - 1,
                        p.pool_pad_w + p.pad_left + p.in_w)),
        bands_(std::clamp(ceil_div(kUnits, p.batch * p.groups), ceil_div(p.in_h, kMaxBandRows),
                          ceil_div(p.in_h, kMinBandRows))) {}

  bool run(Context& context) {
    auto* weights = static_cast<float*>(context.allocate(sizeof(float) * p_.groups * blocks_ * block_weights()));
    if (!pack_weights(weights, context)) return false;
    context.parallel_for(p_.batch * p_.groups * bands_, [&](int64_t begin, int64_t end) {
      FloatScratch ring(blocks_ * rows_ * row_size()), gradients(kMaxColumns * chunk_),
          pixels(p_.in_w * blocks_ * kLanes);
      WinnerLists lists(p_.pool_kernel_h * p_.pool_kernel_w, chunk_);
      for (int64_t unit = begin; unit < end; ++unit) {
        add_band({ring.data(), gradients.data(), pixels.data(), &lists}, weights, unit);
      }
    });
    return true;
  }

 private:
  struct Scratch {
    float* ring;       // [block][row][column][channel]: the rows that the windows of one pooled row reach
    float* gradients;  // of some pooled pixels
    float* pixels;     // one row of the result
    WinnerLists* lists;
  };

  int64_t block_weights() const { return out_ * kTaps * kLanes; }
  int64_t row_size() const { return width_ * kLanes; }
  float* ring_row(const Scratch& s, int64_t block, int64_t row) const {
    return s.ring + (block * rows_ + row % rows_) * row_size();
  }

  // As [block][out channel][tap][lane]. False if a weight is not finite.
  bool pack_weights(float* packed, Context& context) const {
    std::atomic<bool> finite = true;
    context.parallel_for(p_.groups * blocks_, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        float* target = packed + block * block_weights();
        visit_dtype(p_.dtype, [&]<class T>() {
          pack_block(static_cast<const T*>(tensors_.weight) + block / blocks_ * out_ * in_ * kTaps,
                     block % blocks_ * kLanes, target);
        });
        if (!all_finite(target, block_weights())) finite = false;
      }
    });
    return finite;
  }

  template <class T>
  void pack_block(const T* weight, int64_t first, float* target) const {
    const int64_t channels = std::min(kLanes, in_ - first);
    if (channels < kLanes) std::fill_n(target, block_weights(), 0.f);
    for (int64_t o = 0; o < out_; ++o, weight += in_ * kTaps, target += kTaps * kLanes) {
      if (p_.channels_last_weight) {
        for (int64_t tap = 0; tap < kTaps; ++tap) {
          convert_row(weight + tap * in_ + first, target + tap * kLanes, channels);
        }
      } else {
        transpose(weight + first * kTaps, kTaps, channels, kTaps, target, kLanes);
      }
    }
  }

  // Rows here are counted from the first row that a window reaches, pool padding and padding included.
  void add_band(const Scratch& s, const float* weights, int64_t unit) const {
    const int64_t band = unit % bands_;
    const int64_t group = unit / bands_ % p_.groups;
    const int64_t image = unit / bands_ / p_.groups;
    const int64_t border = p_.pool_pad_h + p_.pad_top;
    const int64_t begin = border + p_.in_h * band / bands_;
    const int64_t end = border + p_.in_h * (band + 1) / bands_;
    weights += group * blocks_ * block_weights();
    std::fill_n(s.ring, blocks_ * rows_ * row_size(), 0.f);
    // The first pooled row that reaches `begin`.
    const int64_t first = std::max<int64_t>(0, ceil_div(begin - rows_ + 1, p_.pool_stride_h));
    int64_t next = std::min(begin, first * p_.pool_stride_h);
    const auto write_until = [&](int64_t last) {
      for (; next < last; ++next) {
        if (next >= begin) write_row(s, image, group, next);
        for (int64_t b = 0; b < blocks_; ++b) std::fill_n(ring_row(s, b, next), row_size(), 0.f);
      }
    };
    for (int64_t y = first; y < p_.out_h && y * p_.pool_stride_h < end; ++y) {
      write_until(y * p_.pool_stride_h);
      add_pooled_row(s, weights, image, group, y);
    }
    write_until(end);
  }

  void add_pooled_row(const Scratch& s, const float* weights, int64_t image, int64_t group, int64_t y) const {
    const PooledGradient from{tensors_.grad_output, tensors_.selection};
    for (int64_t x = 0; x < p_.out_w; x += kMaxColumns) {
      const int64_t columns = std::min(kMaxColumns, p_.out_w - x);
      for (int64_t o = 0; o < out_; o += chunk_) {
        const int64_t channels = std::min(chunk_, out_ - o);
        const int64_t channel = group * out_ + o;
        load_gradients(p_, from, {image, y, x, columns, channel, channels}, s.gradients);
        for (int64_t i = 0; i < columns; ++i) {
          s.lists->fill(i, selection_at(p_, from, image, y, x + i) + channel, s.gradients + i * channels, channels);
        }
        for (int64_t b = 0; b < blocks_; ++b) {
          add_windows(s, b, y, x, columns, weights + b * block_weights() + o * kTaps * kLanes);
        }
      }
    }
  }

  void add_windows(const Scratch& s, int64_t block, int64_t y, int64_t x, int64_t columns, const float* weights) const {
    std::array<float*, kMaxRows> rows;
    for (int64_t r = 0; r < rows_; ++r) rows[r] = ring_row(s, block, y * p_.pool_stride_h + r);
    const auto add = p_.pool_kernel_h == 2 ? &add_window<2> : &add_window<3>;
    for (int64_t i = 0; i < columns; ++i) add(*s.lists, i, weights, rows.data(), (x + i) * p_.pool_stride_w);
  }

  void write_row(const Scratch& s, int64_t image, int64_t group, int64_t row) const {
    const ImageStrides& strides = p_.input_strides;
    const int64_t first_column = p_.pool_pad_w + p_.pad_left;
    visit_dtype(p_.dtype, [&]<class T>() {
      T* target = static_cast<T*>(tensors_.grad_input) + image * strides.n + group * in_ * strides.c +
                  (row - p_.pool_pad_h - p_.pad_top) * strides.h;
      for (int64_t b = 0; b < blocks_; ++b) {
        const float* sums = ring_row(s, b, row) + first_column * kLanes;
        const int64_t channels = std::min(kLanes, in_ - b * kLanes);
        if (strides.w == 1 && channels == kLanes) {
          transpose(sums, kLanes, p_.in_w, kLanes, target + b * kLanes * strides.c, strides.c);
        } else if (strides.w == 1) {
          // A square with missing rows takes longer than a whole one and a copy of what is needed of it.
          transpose(sums, kLanes, p_.in_w, kLanes, s.pixels, p_.in_w);
          for (int64_t c = 0; c < channels; ++c) {
            convert_row(s.pixels + c * p_.in_w, target + (b * kLanes + c) * strides.c, p_.in_w);
          }
        } else {
          for (int64_t x = 0; x < p_.in_w; ++x) {
            Vec::loadu(sums + x * kLanes).store(s.pixels + x * in_ + b * kLanes, channels);
          }
        }
      }
      if (strides.w == 1) return;
      for (int64_t x = 0; x < p_.in_w; ++x) convert_row(s.pixels + x * in_, target + x * strides.w, in_);
    });
  }

  const ConvPool2d& p_;
  const ConvPool2dBackward& tensors_;
  const int64_t in_, out_;  // channels of a group
  const int64_t blocks_;    // of kLanes input channels
  const int64_t chunk_;     // output channels at once
  const int64_t rows_, width_;
  const int64_t bands_;
};

}  // namespace

bool sparse_grad_input(const ConvPool2d& p, const ConvPool2dBackward& tensors, Context& context) {
  return SparseGradInput(p, tensors).run(context);
}

}  // namespace fastvision

#include "conv/cpu/planar.h"

#include <vector>

#include "conv/cpu/strided.h"
#include "conv/cpu/winograd.h"
#include "core/activation.h"
#include "core/integers.h"
#include "core/load.h"
#include "core/scratch.h"
#include "core/simd.h"

namespace fastvision {
namespace {

// Additions in a row into one register: a few more than in the direct kernel let the 147 of a 7x7 stem be one chain.
constexpr int64_t kMaxChain = 160;

// A strip of padded input rows of the channels of one chain: it stays in the L2 cache. A single row of outputs may need
// more, up to a limit.
constexpr int64_t kStripFloats = 32 * 1024, kMaxStripFloats = 512 * 1024;

// Register tile: output channels x vectors of columns. Zen 3: 4 x 3, or 3 x 4, leave AVX2 one register for what changes
// fastest.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kRegisters = 24, kMaxTileChannels = 6;
#elif defined(CPU_CAPABILITY_AVX2)
constexpr int kRegisters = 12, kMaxTileChannels = 4;
#else
constexpr int kRegisters = 4, kMaxTileChannels = 2;
#endif
constexpr int tile_vectors(int channels) {
  constexpr int kMaxVectors = 8;
  return std::min(kRegisters / channels, kMaxVectors);
}

// How the input rows of a chain lie in memory, in the tensor or in a strip: from channel to channel, row to row, and
// between the columns x and x + 1 of one row where outputs are a stride apart.
struct Layout {
  bool in_place;
  int64_t channels;  // of a chain
  int64_t channel, row, phase;
  int64_t band_rows;  // output rows computed from a strip

  explicit Layout(const ConvPool2d& p) : in_place(reads_in_place(p)) {
    const int64_t inputs = p.in_channels / p.groups;
    const int64_t chains = ceil_div(inputs * p.kernel_h * p.kernel_w, kMaxChain);
    channels = ceil_div(inputs, std::min(chains, inputs));
    // Room for the columns of the last vector.
    phase = in_place ? 0 : p.conv_w + (p.kernel_w - 1) * p.dilation_w / p.stride_w + 1;
    row = in_place ? p.input_strides.h : p.stride_w * phase;
    const int64_t rows = (kStripFloats / (channels * row) - (p.kernel_h - 1) * p.dilation_h - 1) / p.stride_h + 1;
    constexpr int64_t kBands = 4;  // at least, for threads to share
    // Columns of outputs that are half a cache line each stay in L1 until their other half is written.
    constexpr int64_t kOutputLines = 256, kMinRows = 4;
    const int64_t most = chains > 1 ? rows : std::max(kMinRows, kOutputLines / (p.out_channels / p.groups));
    band_rows = std::clamp<int64_t>(std::min(rows, most), 1, ceil_div(p.conv_h, kBands));
    channel = in_place ? p.input_strides.c : row * input_height(p, band_rows);
  }

  // Planes that are a power of two apart meet in the same cache sets.
  static bool reads_in_place(const ConvPool2d& p) {
    constexpr int64_t kPage = 1024;  // floats
    return p.pad_top == 0 && p.pad_left == 0 && p.stride_w == 1 && input_height(p, p.conv_h) <= p.in_h &&
           p.conv_w + (p.kernel_w - 1) * p.dilation_w <= p.in_w && p.conv_w >= kLanes && p.input_strides.c % kPage != 0;
  }

  // Rows that `rows` output rows are computed from.
  static int64_t input_height(const ConvPool2d& p, int64_t rows) {
    return (rows - 1) * p.stride_h + (p.kernel_h - 1) * p.dilation_h + 1;
  }

  // A vector may reach beyond its row.
  int64_t strip_size() const { return in_place ? 0 : channel * channels + kLanes; }
};

// The products of a chain, in their order: where their inputs are, from the first.
using Offsets = const int64_t*;

// Vectors of outputs: where their inputs begin, and where they go.
template <int Vectors>
struct Pieces {
  const float* input[Vectors];
  int64_t output[Vectors];
};

// Where the outputs of some channels go, `columns` of each vector, and what becomes of their sums.
struct Target {
  float* output;
  int64_t plane, columns;
  const float* bias;  // or null
  float floor;
};

// A chain of products: the sums before it, null if it is the first, and where to leave them, null after the last.
struct Chain {
  Offsets offsets;
  const float* weights;  // [tap][channel]
  int64_t count;
  const float* before;
  float* after;
};

template <int Channels, int Vectors>
using Sums = Vec[Channels][Vectors];

template <int Channels, int Vectors>
inline FASTVISION_INLINE void add_products(const Chain& chain, const Pieces<Vectors>& pieces,
                                           Sums<Channels, Vectors>& sum) {
  unroll<Channels * Vectors>([&](auto i) FASTVISION_INLINE { sum[i / Vectors][i % Vectors] = Vec(0.f); });
  const float* weights = chain.weights;
  for (int64_t t = 0; t < chain.count; ++t, weights += Channels) {
    const int64_t offset = chain.offsets[t];
    const auto input = [&](int v) FASTVISION_INLINE { return Vec::loadu(pieces.input[v] + offset); };
    // What there is less of is loaded first and stays.
    if constexpr (Channels < Vectors) {
      Vec w[Channels];
      unroll<Channels>([&](auto o) FASTVISION_INLINE { w[o] = Vec(weights[o]); });
      unroll<Vectors>([&](auto v) FASTVISION_INLINE {
        const Vec x = input(v);
        unroll<Channels>([&](auto o) FASTVISION_INLINE { sum[o][v] = at::vec::fmadd(x, w[o], sum[o][v]); });
      });
    } else {
      Vec x[Vectors];
      unroll<Vectors>([&](auto v) FASTVISION_INLINE { x[v] = input(v); });
      unroll<Channels>([&](auto o) FASTVISION_INLINE {
        const Vec w(weights[o]);
        unroll<Vectors>([&](auto v) FASTVISION_INLINE { sum[o][v] = at::vec::fmadd(x[v], w, sum[o][v]); });
      });
    }
  }
}

template <int Channels, int Vectors>
__attribute__((noinline)) void convolve(const Chain& chain, const Pieces<Vectors>& pieces_there, const Target& target) {
  const Pieces<Vectors> pieces = pieces_there;  // a copy: what is stored could otherwise be these
  // Planes are as many cache misses: they pass meanwhile. Where a vector begins, the one to its left has ended.
  if (!chain.after) {
    unroll<Channels * Vectors>([&](auto i) FASTVISION_INLINE {
      __builtin_prefetch(target.output + i / Vectors * target.plane + pieces.output[i % Vectors] + kLanes - 1, 1);
    });
  }
  Sums<Channels, Vectors> sum;
  add_products<Channels, Vectors>(chain, pieces, sum);
  if (chain.before) {
    unroll<Channels * Vectors>([&](auto i) FASTVISION_INLINE {
      Vec& s = sum[i / Vectors][i % Vectors];
      s = Vec::loadu(chain.before + i * kLanes) + s;
    });
  }
  if (chain.after) {
    unroll<Channels * Vectors>(
        [&](auto i) FASTVISION_INLINE { sum[i / Vectors][i % Vectors].store(chain.after + i * kLanes); });
    return;
  }
  const auto finish = [&](const auto& store) FASTVISION_INLINE {
    unroll<Channels>([&](auto o) FASTVISION_INLINE {
      const Vec bias(target.bias ? target.bias[o] : 0.f), floor(target.floor);
      unroll<Vectors>([&](auto v) FASTVISION_INLINE {
        store(max_keeping_second(floor, sum[o][v] + bias), target.output + o * target.plane + pieces.output[v]);
      });
    });
  };
  if (target.columns == kLanes) {
    finish([](const Vec& v, float* to) FASTVISION_INLINE { v.store(to); });
  } else {
    finish([&](const Vec& v, float* to) FASTVISION_INLINE { v.store(to, static_cast<int>(target.columns)); });
  }
}

// A group's output channels in tiles as equal as can be: the first `larger` have `most`, the others one less.
struct Tiles {
  int64_t count, most, larger;

  explicit Tiles(const ConvPool2d& p) {
    const int64_t outputs = p.out_channels / p.groups;
    count = ceil_div(outputs, kMaxTileChannels);
    most = ceil_div(outputs, count);
    larger = outputs - count * (most - 1);
  }

  int64_t channels(int64_t tile) const { return tile < larger ? most : most - 1; }
};

class BandWorker {
 public:
  BandWorker(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish, const Layout& layout,
             Offsets offsets, const float* weights)
      : p_(p),
        tensors_(tensors),
        finish_(finish),
        layout_(layout),
        offsets_(offsets),
        weights_(weights),
        tiles_(p),
        strip_(layout.strip_size()) {}

  // A band of one group's outputs, a chain after the other, so that its inputs stay in near caches.
  void run(int64_t image, int64_t group, int64_t band) {
    const int64_t first = band * layout_.band_rows, rows = std::min(layout_.band_rows, p_.conv_h - first);
    const float* planes = static_cast<const float*>(tensors_.input) + image * p_.input_strides.n +
                          group * group_inputs() * p_.input_strides.c;
    float* output = static_cast<float*>(tensors_.output) + image * p_.output_strides.n +
                    group * group_outputs() * p_.output_strides.c + first * p_.output_strides.h;
    for (int64_t c = 0; c < group_inputs(); c += layout_.channels, planes += layout_.channels * p_.input_strides.c) {
      const int64_t channels = std::min(layout_.channels, group_inputs() - c);
      const float* input = planes + first * p_.stride_h * layout_.row;
      if (!layout_.in_place) {
        fill_strip(planes, channels, first * p_.stride_h - p_.pad_top, Layout::input_height(p_, rows));
        input = strip_.data();
      }
      unroll<kMaxTileChannels>([&](auto i) FASTVISION_INLINE {
        if (tiles_.most == i + 1) run_chain<i + 1>(group, c, channels, input, output, rows);
      });
    }
    for (int64_t o = 0; finish_.is_needed() && o < group_outputs(); ++o) {
      float* plane = output + o * p_.output_strides.c;
      for (int64_t y = 0; y < rows; ++y) finish_(plane + y * p_.output_strides.h, p_.out_w);
    }
  }

 private:
  int64_t group_inputs() const { return p_.in_channels / p_.groups; }
  int64_t group_outputs() const { return p_.out_channels / p_.groups; }
  int64_t window() const { return p_.kernel_h * p_.kernel_w; }

  // Adds a chain to the sums of all outputs. The largest tiles have `Channels` channels.
  template <int Channels>
  void run_chain(int64_t group, int64_t first_input, int64_t inputs, const float* input, float* output, int64_t rows) {
    constexpr int kVectors = tile_vectors(Channels);
    const int64_t count = rows * ceil_div(p_.conv_w, kLanes);
    const bool is_first = first_input == 0, is_last = first_input + inputs == group_inputs();
    if (is_first && !is_last) sums_.resize(ceil_div(count, kVectors) * tiles_.count * Channels * kVectors * kLanes);
    float* sums = sums_.data();
    for (int64_t first = 0; first < count; first += kVectors) {
      Pieces<kVectors> pieces;
      // The last vector of a row lies over the one before, if there is one, and so do those beyond the last row.
      for (int v = 0; v < kVectors; ++v) {
        const int64_t piece = first + v, y = piece % rows;
        const int64_t x = std::min(piece / rows * kLanes, std::max<int64_t>(p_.conv_w - kLanes, 0));
        pieces.input[v] = input + y * p_.stride_h * layout_.row + x;
        pieces.output[v] = y * p_.output_strides.h + x;
      }
      const auto* bias = static_cast<const float*>(tensors_.bias);
      int64_t channel = group * group_outputs();
      float* planes = output;
      for (int64_t tile = 0; tile < tiles_.count; ++tile, sums += Channels * kVectors * kLanes) {
        const int64_t channels = tiles_.channels(tile);
        const float* weights = weights_ + (channel * group_inputs() + first_input * channels) * window();
        const Chain chain{offsets_, weights, inputs * window(), is_first ? nullptr : sums, is_last ? nullptr : sums};
        const Target target{planes, p_.output_strides.c, std::min(p_.conv_w, kLanes), bias ? bias + channel : nullptr,
                            activation_floor(p_.activation == Activation::relu)};
        if (channels == Channels) {
          convolve<Channels, kVectors>(chain, pieces, target);
        } else if constexpr (Channels > 1) {
          convolve<Channels - 1, kVectors>(chain, pieces, target);
        }
        channel += channels;
        planes += channels * p_.output_strides.c;
      }
    }
  }

  // Rows [top, top + rows) of the image, with zeros around it.
  void fill_strip(const float* planes, int64_t channels, int64_t top, int64_t rows) {
    for (int64_t c = 0; c < channels; ++c) {
      float* target = strip_.data() + c * layout_.channel;
      for (int64_t y = top; y < top + rows; ++y, target += layout_.row) {
        if (y < 0 || y >= p_.in_h) {
          std::fill_n(target, layout_.row, 0.f);
        } else {
          fill_row(planes + c * p_.input_strides.c + y * p_.input_strides.h, target);
        }
      }
    }
  }

  void fill_row(const float* source, float* target) const {
    const int64_t stride = p_.stride_w;
    for (int64_t phase = 0; phase < stride; ++phase, target += layout_.phase) {
      // Columns phase, phase + stride, ... of the padded row: those of the image are [begin, end).
      const int64_t begin = std::clamp<int64_t>(ceil_div(p_.pad_left - phase, stride), 0, layout_.phase);
      const int64_t end = std::clamp<int64_t>(ceil_div(p_.pad_left + p_.in_w - phase, stride), begin, layout_.phase);
      std::fill(target, target + begin, 0.f);
      const int64_t first = begin * stride + phase - p_.pad_left;
      if (stride == 1) {
        convert_row(source + first, target + begin, end - begin);
      } else {
        copy_every(stride, source + first, p_.in_w - first, end - begin, target + begin);
      }
      std::fill(target + end, target + layout_.phase, 0.f);
    }
  }

  const ConvPool2d& p_;
  const ConvPool2dForward& tensors_;
  const Finish& finish_;
  const Layout& layout_;
  const Offsets offsets_;
  const float* weights_;
  const Tiles tiles_;
  FloatScratch strip_;
  std::vector<float> sums_;  // of chains that wait for the next: [pieces][channels]
};

Offsets find_offsets(const ConvPool2d& p, const Layout& layout, Context& context) {
  const int64_t count = layout.channels * p.kernel_h * p.kernel_w;
  auto* offsets = static_cast<int64_t*>(context.allocate(sizeof(int64_t) * count));
  int64_t* next = offsets;
  for (int64_t c = 0; c < layout.channels; ++c) {
    for (int64_t y = 0; y < p.kernel_h; ++y) {
      for (int64_t x = 0; x < p.kernel_w; ++x) {
        const int64_t column = x * p.dilation_w;
        *next++ = c * layout.channel + y * p.dilation_h * layout.row + column % p.stride_w * layout.phase +
                  column / p.stride_w;
      }
    }
  }
  return offsets;
}

// [group][tile][tap][channel]
const float* pack_weights(const ConvPool2d& p, const ConvPool2dForward& tensors, Context& context) {
  const int64_t taps = p.in_channels / p.groups * p.kernel_h * p.kernel_w;
  auto* weights = static_cast<float*>(context.allocate(sizeof(float) * p.out_channels * taps));
  const auto* weight = static_cast<const float*>(tensors.weight);
  const Tiles tiles(p);
  for (int64_t channel = 0; channel < p.out_channels;) {
    for (int64_t tile = 0; tile < tiles.count; ++tile) {
      const int64_t channels = tiles.channels(tile);
      float* target = weights + channel * taps;
      for (int64_t o = 0; o < channels; ++o, ++channel) {
        const float scale = tensors.scale ? tensors.scale[channel] : 1.f;
        for (int64_t t = 0; t < taps; ++t) target[t * channels + o] = weight[channel * taps + t] * scale;
      }
    }
  }
  return weights;
}

bool applies(const ConvPool2d& p) {
  const bool planes = p.input_strides.w == 1 && p.output_strides.w == 1 && !p.channels_last_weight;
  return p.dtype == DType::f32 && p.pool == Pool::none && planes && 2 * p.conv_w > kLanes &&
         p.kernel_h * p.kernel_w <= kMaxChain && Layout(p).strip_size() <= kMaxStripFloats;
}

}  // namespace

// What is asked of every convolution comes before the layout, which takes its time.
bool planar_replaces_stock(const ConvPool2d& p) {
  constexpr int64_t kFewOutputs = 16, kStockBlock = 8;
  const int64_t inputs = p.in_channels / p.groups, outputs = p.out_channels / p.groups;
  if (outputs >= kFewOutputs) return false;
  if (p.groups > 1) {
    const bool by_blocks = inputs % kStockBlock == 0 && outputs % kStockBlock == 0;
    return inputs * outputs > 1 && !by_blocks && applies(p);
  }
  const bool by_winograd = winograd_applies(p) && winograd_is_faster(p);
  return p.kernel_h * p.kernel_w > 1 && !by_winograd && applies(p);
}

bool planar_is_faster(const ConvPool2d& p) {
  constexpr int64_t kFewOutputs = 4, kManyColumns = 48;
  const bool is_1x1 = p.kernel_h * p.kernel_w == 1;
  if (p.groups == 1 && !is_1x1 && p.out_channels <= kFewOutputs && p.conv_w >= kManyColumns) return applies(p);
  constexpr int64_t kFewInputs = 4, kFewProducts = 6400;
  const int64_t products = p.in_channels / p.groups * (p.out_channels / p.groups);
  const bool is_small = p.groups > 1 ? is_1x1 && products <= kFewProducts : !is_1x1 && p.in_channels <= kFewInputs;
#if defined(CPU_CAPABILITY_AVX512)
  // Zen 4, time of direct / planar: 3>64 @224 1.1, 7x7/2 1.0-1.1, 11x11/4 0.85; 240>60 in 3 groups @28 1.4, @14 0.6.
  if (p.groups > 1 ? p.conv_w <= kLanes : p.stride_w > 2) return false;
#endif
  return is_small && applies(p);
}

void planar_forward(const ConvPool2d& p, const ConvPool2dForward& tensors, const Finish& finish, Context& context) {
  const Layout layout(p);
  const Offsets offsets = find_offsets(p, layout, context);
  const float* weights = pack_weights(p, tensors, context);
  const int64_t bands = ceil_div(p.conv_h, layout.band_rows);
  context.parallel_for(p.batch * p.groups * bands, [&](int64_t begin, int64_t end) {
    BandWorker worker(p, tensors, finish, layout, offsets, weights);
    for (int64_t i = begin; i < end; ++i) worker.run(i / bands / p.groups, i / bands % p.groups, i % bands);
  });
}

}  // namespace fastvision

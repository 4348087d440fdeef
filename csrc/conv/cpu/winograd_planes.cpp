#include "conv/cpu/winograd_planes.h"

#include <array>
#include <cmath>

#include "conv/cpu/epilogue.h"
#include "conv/cpu/rows.h"
#include "conv/cpu/weights.h"
#include "core/activation.h"
#include "core/scratch.h"
#include "core/simd.h"

namespace fastvision {
namespace {

constexpr int64_t kMaxChannels = 4;
constexpr int kSize = 4;  // inputs of a tile in each dimension, and evaluation points
constexpr int kPoints = kSize * kSize;

// Windows at once: their transformed inputs stay in L1. The distance from plane to plane is no power of two, and leaves
// room for the lanes of a last vector.
constexpr int64_t kChunk = 128;
constexpr int64_t kPlane = kChunk + 16;

// Register tile: output channels x vectors of windows, six registers for each. Loads per multiply-add: one, or one and
// a half with AVX2, whose sixteen registers hold no more; 2 x 1 there makes GCC load every input twice.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kTileChannels = 2;
#else
constexpr int kTileChannels = 1;
#endif
constexpr int kTileVectors = 2;

// Fewer multiply-adds than this are not worth a second thread.
constexpr int64_t kSmallProblem = 1 << 20;

// ---- weights: [channel block][point][in channel][out channel of the block]

// G g. The last point's sign is turned, so that every product is added.
inline FASTVISION_INLINE void transform_weight(const Vec (&g)[3], Vec (&u)[kSize]) {
  const Vec half(0.5f);
  const Vec even = (g[0] + g[2]) * half, odd = g[1] * half;
  u[0] = g[0];
  u[1] = even + odd;
  u[2] = even - odd;
  u[3] = Vec(0.f) - g[2];
}

void transform_block(const float* weight, const float* scale, int64_t in_channels, int64_t channels,
                     float* transformed) {
  alignas(64) float taps[kMaxChannels * 9 * kLanes] = {};
  const int64_t tap_count = in_channels * 9;
  transpose(weight, tap_count, channels, tap_count, taps, kLanes);
  if (scale) scale_channels(scale, channels, taps, tap_count, kLanes);
  for (int64_t c = 0; c < in_channels; ++c) {
    Vec half[kSize][3];
    unroll<3>([&](auto column) FASTVISION_INLINE {
      Vec from[3], to[kSize];
      unroll<3>([&](auto row)
                    FASTVISION_INLINE { from[row] = Vec::loadu(taps + (c * 9 + row * 3 + column) * kLanes); });
      transform_weight(from, to);
      unroll<kSize>([&](auto row) FASTVISION_INLINE { half[row][column] = to[row]; });
    });
    unroll<kSize>([&](auto row) FASTVISION_INLINE {
      Vec to[kSize];
      transform_weight(half[row], to);
      unroll<kSize>([&](auto column) FASTVISION_INLINE {
        to[column].store(transformed + ((row * kSize + column) * in_channels + c) * kLanes);
      });
    });
  }
}

// ---- inputs: [point][channel][window]

// Four rows of one plane; a null row is padding.
struct InputRows {
  const float* row[kSize];
};

inline FASTVISION_INLINE void vertical(const Vec& r0, const Vec& r1, const Vec& r2, const Vec& r3, Vec (&t)[kSize]) {
  t[0] = r0 - r2;
  t[1] = r1 + r2;
  t[2] = r2 - r1;
  t[3] = r1 - r3;
}

// kLanes windows, from 2 * kLanes + 2 columns.
inline FASTVISION_INLINE void transform_windows(const InputRows& in, int64_t channels, float* transformed) {
  Vec left[2][kSize], right[2][kSize];  // of the columns 0, 1, ... and 2, 3, ...
  unroll<2>([&](auto i) FASTVISION_INLINE {
    const auto load = [&](int row, int64_t column)
                          FASTVISION_INLINE { return Vec::loadu(in.row[row] + column + i * kLanes); };
    vertical(load(0, 0), load(1, 0), load(2, 0), load(3, 0), left[i]);
    vertical(load(0, 2), load(1, 2), load(2, 2), load(3, 2), right[i]);
  });
  unroll<kSize>([&](auto row) FASTVISION_INLINE {
    const auto [d0, d1] = at::vec::deinterleave2(left[0][row], left[1][row]);
    const auto [d2, d3] = at::vec::deinterleave2(right[0][row], right[1][row]);
    float* target = transformed + row * kSize * channels * kPlane;
    (d0 - d2).store(target);
    (d1 + d2).store(target + channels * kPlane);
    (d2 - d1).store(target + 2 * channels * kPlane);
    (d1 - d3).store(target + 3 * channels * kPlane);
  });
}

// The input of one call.
struct Planes {
  const ConvPool2d& p;
  const float* data;
  const float* end;  // of the tensor
};

// Windows [x, x + count) of output row y of one plane, count <= kLanes.
void transform_piece(const Planes& planes, const float* plane, int64_t y, int64_t x, int64_t count,
                     float* transformed) {
  const ConvPool2d& p = planes.p;
  constexpr int64_t kColumns = 2 * kLanes + 2;
  const int64_t first_row = 2 * y - p.pad_top, first = 2 * x - p.pad_left;
  const float* origin = plane + first_row * p.input_strides.h + first;
  InputRows rows;
  // Lanes beyond `count` may hold anything, and anything may be read that belongs to the tensor.
  const bool inside = first_row >= 0 && first_row + kSize <= p.in_h && first >= 0 && first + 2 * count + 2 <= p.in_w;
  if (inside && planes.end - (origin + (kSize - 1) * p.input_strides.h) >= kColumns) {
    for (int r = 0; r < kSize; ++r) rows.row[r] = origin + r * p.input_strides.h;
    return transform_windows(rows, p.in_channels, transformed);
  }
  float copy[kSize][kColumns] = {};
  const int64_t begin = std::clamp<int64_t>(-first, 0, kColumns);
  const int64_t end = std::clamp(p.in_w - first, begin, kColumns);
  for (int r = 0; r < kSize; ++r) {
    rows.row[r] = copy[r];
    if (first_row + r < 0 || first_row + r >= p.in_h) continue;
    std::copy(origin + r * p.input_strides.h + begin, origin + r * p.input_strides.h + end, copy[r] + begin);
  }
  transform_windows(rows, p.in_channels, transformed);
}

// Windows [begin, end) of the output plane, counted in rows.
void transform_inputs(const Planes& planes, int64_t image, int64_t begin, int64_t end, float* transformed) {
  const ConvPool2d& p = planes.p;
  int64_t y = begin / p.out_w, x = begin % p.out_w;
  for (int64_t i = begin, count; i < end; i += count) {
    count = std::min({kLanes, p.out_w - x, end - i});
    for (int64_t c = 0; c < p.in_channels; ++c) {
      const float* plane = planes.data + image * p.input_strides.n + c * p.input_strides.c;
      transform_piece(planes, plane, y, x, count, transformed + c * kPlane + i - begin);
    }
    x += count;
    if (x == p.out_w) x = 0, ++y;
  }
}

// ---- products, and the way back

template <int Channels, int Vectors>
struct Sums {
  Vec v[Channels][Vectors];
};

// f(channel, vector)
template <int Channels, int Vectors, class F>
inline FASTVISION_INLINE void for_each_pair(F&& f) {
  unroll<Channels * Vectors>([&](auto i) FASTVISION_INLINE {
    f(std::integral_constant<int, i / Vectors>(), std::integral_constant<int, i % Vectors>());
  });
}

// Adds the products of one point over all input channels; `Start` begins with them.
template <int InChannels, int Point, bool Start, int Channels, int Vectors>
inline FASTVISION_INLINE void add_point(const float* inputs, const float* weights, Sums<Channels, Vectors>& sums) {
  unroll<InChannels>([&](auto c) FASTVISION_INLINE {
    constexpr int kTerm = Point * InChannels + decltype(c)::value;
    Vec x[Vectors];
    unroll<Vectors>([&](auto v) FASTVISION_INLINE { x[v] = Vec::loadu(inputs + kTerm * kPlane + v * kLanes); });
    unroll<Channels>([&](auto o) FASTVISION_INLINE {
      const Vec w(weights[kTerm * kLanes + o]);
      unroll<Vectors>([&](auto v) FASTVISION_INLINE {
        Vec& sum = sums.v[o][v];
        sum = Start && c == 0 ? x[v] * w : at::vec::fmadd(x[v], w, sum);
      });
    });
  });
}

// One column of points on its way back to two rows: adds the upper row's and the lower row's sums to `top` and
// `bottom`.
template <int InChannels, int Column, bool Start, int Channels, int Vectors>
inline FASTVISION_INLINE void add_column(const float* inputs, const float* weights, Sums<Channels, Vectors>& top,
                                         Sums<Channels, Vectors>& bottom) {
  Sums<Channels, Vectors> first, second;
  add_point<InChannels, kSize + Column, true>(inputs, weights, first);
  add_point<InChannels, 2 * kSize + Column, true>(inputs, weights, second);
  for_each_pair<Channels, Vectors>([&](auto o, auto v) FASTVISION_INLINE {
    const Vec sum = first.v[o][v] + second.v[o][v], difference = first.v[o][v] - second.v[o][v];
    top.v[o][v] = Start ? sum : top.v[o][v] + sum;
    bottom.v[o][v] = Start ? difference : bottom.v[o][v] + difference;
  });
  add_point<InChannels, Column, false>(inputs, weights, top);
  add_point<InChannels, 3 * kSize + Column, false>(inputs, weights, bottom);
}

// Where some windows of some channels go: planes of values, and of codes (floats) in training.
struct Target {
  float* values;
  int64_t value_plane;
  float* codes;
  int64_t code_plane;
};

// As max_pool2d: the first maximum wins, but a NaN beats whatever came before it.
void select_carefully(const Vec (&window)[4], const Vec& bias, float* values, float* codes) {
  float sums[4][kLanes];
  for (int i = 0; i < 4; ++i) (window[i] + bias).store(sums[i]);
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    int winner = 0;
    for (int i = 1; i < 4; ++i) {
      if (sums[i][lane] > sums[winner][lane] || std::isnan(sums[i][lane])) winner = i;
    }
    values[lane] = sums[winner][lane];
    codes[lane] = static_cast<float>(winner);
  }
}

template <bool Select>
inline FASTVISION_INLINE void pool_window(const Vec (&window)[4], const Vec& bias, bool relu, float* values,
                                          float* codes) {
  Vec best = max_keeping_nan(window[0], window[1], window[2], window[3]) + bias;
  if constexpr (Select) {
    Vec code = winner_of_window(window[0], window[1], window[2], window[3]);
    if (__builtin_expect(best.has_inf_nan(), false)) {
      alignas(64) float careful[2][kLanes];
      select_carefully(window, bias, careful[0], careful[1]);
      best = Vec::loadu(careful[0]);
      code = Vec::loadu(careful[1]);
    }
    if (relu) code = Vec::blendv(code, Vec(static_cast<float>(kDead)), best <= Vec(0.f));
    code.store(codes);
  }
  max_keeping_second(Vec(activation_floor(relu)), best).store(values);
}

template <int InChannels, int Channels, bool Select>
inline FASTVISION_INLINE void pool_tile(const float* inputs, const float* weights, const float* bias, bool relu,
                                        const Target& target) {
  constexpr int kVectors = kTileVectors;
  Sums<Channels, kVectors> left[2], right[2], out[2][2];
  add_column<InChannels, 1, true>(inputs, weights, left[0], left[1]);
  add_column<InChannels, 2, true>(inputs, weights, right[0], right[1]);
  for_each_pair<Channels, kVectors>([&](auto o, auto v) FASTVISION_INLINE {
    unroll<2>([&](auto row) FASTVISION_INLINE {
      out[row][0].v[o][v] = left[row].v[o][v] + right[row].v[o][v];
      out[row][1].v[o][v] = left[row].v[o][v] - right[row].v[o][v];
    });
  });
  add_column<InChannels, 0, false>(inputs, weights, out[0][0], out[1][0]);
  add_column<InChannels, 3, false>(inputs, weights, out[0][1], out[1][1]);
  for_each_pair<Channels, kVectors>([&](auto o, auto v) FASTVISION_INLINE {
    const Vec window[4] = {out[0][0].v[o][v], out[0][1].v[o][v], out[1][0].v[o][v], out[1][1].v[o][v]};
    pool_window<Select>(window, Vec(bias[o]), relu, target.values + o * target.value_plane + v * kLanes,
                        Select ? target.codes + o * target.code_plane + v * kLanes : nullptr);
  });
}

// Channels x all windows of a chunk. `inputs` has room for whole tiles, and so have codes.
template <int InChannels, int Channels, bool Select>
void multiply_and_pool(const float* inputs, const float* weights, const float* bias, bool relu, int64_t windows,
                       const Target& target) {
  constexpr int64_t kWindows = kTileVectors * kLanes;
  for (int64_t i = 0; i < windows; i += kWindows) {
    asm("" : "+r"(weights));  // or GCC broadcasts all weights before the loop, to where there are no registers
    Target part{target.values + i, target.value_plane, target.codes + i, target.code_plane};
    float values[Channels * kWindows];
    const bool whole = windows - i >= kWindows;
    if (!whole) {
      part.values = values;
      part.value_plane = kWindows;
    }
    pool_tile<InChannels, Channels, Select>(inputs + i, weights, bias, relu, part);
    if (whole) continue;
    for (int o = 0; o < Channels; ++o) {
      for (int64_t x = i; x < windows; x += kLanes) {
        Vec::loadu(values + o * kWindows + x - i)
            .store(target.values + o * target.value_plane + x, static_cast<int>(std::min(windows - x, kLanes)));
      }
    }
  }
}

using Kernel = void (*)(const float*, const float*, const float*, bool, int64_t, const Target&);

// By input channels - 1 and output channels - 1.
using Kernels = std::array<std::array<Kernel, kTileChannels>, kMaxChannels>;

template <bool Select, int InChannels>
constexpr std::array<Kernel, kTileChannels> kernels_of() {
  return []<int... Channels>(std::integer_sequence<int, Channels...>) {
    return std::array<Kernel, kTileChannels>{&multiply_and_pool<InChannels, Channels + 1, Select>...};
  }(std::make_integer_sequence<int, kTileChannels>());
}

template <bool Select>
const Kernels& kernels() {
  static constexpr Kernels table{kernels_of<Select, 1>(), kernels_of<Select, 2>(), kernels_of<Select, 3>(),
                                 kernels_of<Select, 4>()};
  return table;
}

class ChunkWorker {
 public:
  ChunkWorker(const ConvPool2d& p, const ConvPool2dForward& tensors, const float* weights)
      : p_(p),
        tensors_(tensors),
        planes_{p, static_cast<const float*>(tensors.input),
                static_cast<const float*>(tensors.input) + p.batch * p.input_strides.n},
        weights_(weights),
        inputs_(kPoints * p.in_channels * kPlane),
        codes_(tensors.selection ? (p.out_channels + kLanes) * kPlane : 0),
        kernels_(tensors.selection ? kernels<true>() : kernels<false>()) {}

  void run(int64_t image, int64_t begin, int64_t end) {
    transform_inputs(planes_, image, begin, end, inputs_.data());
    const auto* bias = static_cast<const float*>(tensors_.bias);
    float* output = static_cast<float*>(tensors_.output) + image * p_.output_strides.n + begin;
    for (int64_t o = 0; o < p_.out_channels; o += kTileChannels) {
      const int64_t channels = std::min<int64_t>(kTileChannels, p_.out_channels - o);
      float biases[kTileChannels] = {};
      if (bias) std::copy_n(bias + o, channels, biases);
      prefetch(output + (o + kTileChannels) * p_.output_strides.c, o + kTileChannels, end - begin);
      const float* weights = weights_ + o / kLanes * block_size(p_) + o % kLanes;
      kernels_[p_.in_channels - 1][channels - 1](
          inputs_.data(), weights, biases, p_.activation == Activation::relu, end - begin,
          {output + o * p_.output_strides.c, p_.output_strides.c, codes_.data() + o * kPlane, kPlane});
    }
    if (tensors_.selection) write_selection(image, begin, end - begin);
  }

  static int64_t block_size(const ConvPool2d& p) { return kPoints * p.in_channels * kLanes; }

 private:
  // Planes of a batch are as many cache misses: the next ones pass while these are computed.
  void prefetch(const float* next, int64_t first_channel, int64_t windows) const {
    constexpr int64_t kCacheLine = 16;
    for (int64_t o = first_channel; o < std::min(first_channel + kTileChannels, p_.out_channels); ++o) {
      for (int64_t i = 0; i < windows; i += kCacheLine) __builtin_prefetch(next + i, 1);
      next += p_.output_strides.c;
    }
  }

  // From planes of floats to bytes, channels last.
  void write_selection(int64_t image, int64_t begin, int64_t windows) {
    uint8_t* target = tensors_.selection + (image * p_.out_h * p_.out_w + begin) * p_.out_channels;
    float pixels[kLanes * kLanes];
    for (int64_t c = 0; c < p_.out_channels; c += kLanes) {
      const int64_t channels = std::min(kLanes, p_.out_channels - c);
      for (int64_t i = 0; i < windows; i += kLanes) {
        const int64_t count = std::min(kLanes, windows - i);
        transpose_square(codes_.data() + c * kPlane + i, kPlane, kLanes, kLanes, pixels, kLanes);
        for (int64_t x = 0; x < count; ++x) {
          uint8_t* pixel = target + (i + x) * p_.out_channels + c;
          for (int64_t lane = 0; lane < channels; ++lane) pixel[lane] = static_cast<uint8_t>(pixels[x * kLanes + lane]);
        }
      }
    }
  }

  const ConvPool2d& p_;
  const ConvPool2dForward& tensors_;
  const Planes planes_;
  const float* weights_;
  FloatScratch inputs_, codes_;
  const Kernels& kernels_;
};

}  // namespace

bool winograd_planes_applies(const ConvPool2d& p) {
  const bool three_by_three = p.kernel_h == 3 && p.kernel_w == 3 && p.stride_h == 1 && p.stride_w == 1 &&
                              p.dilation_h == 1 && p.dilation_w == 1;
  const bool planes = p.input_strides.w == 1 && p.input_strides.h == p.in_w && p.output_strides.w == 1;
  return p.allow_winograd && p.dtype == DType::f32 && p.groups == 1 && p.in_channels <= kMaxChannels &&
         three_by_three && planes && !p.channels_last_weight && has_whole_pairs(p);
}

void winograd_planes_forward(const ConvPool2d& p, const ConvPool2dForward& tensors, Context& context) {
  const int64_t blocks = (p.out_channels + kLanes - 1) / kLanes, size = ChunkWorker::block_size(p);
  auto* weights = static_cast<float*>(context.allocate(sizeof(float) * blocks * size));
  for (int64_t b = 0; b < blocks; ++b) {
    transform_block(static_cast<const float*>(tensors.weight) + b * kLanes * p.in_channels * 9,
                    tensors.scale ? tensors.scale + b * kLanes : nullptr, p.in_channels,
                    std::min(kLanes, p.out_channels - b * kLanes), weights + b * size);
  }
  const int64_t windows = p.out_h * p.out_w;
  const int64_t chunks = (windows + kChunk - 1) / kChunk;
  const bool small = p.batch * windows * p.out_channels * p.in_channels * kPoints < kSmallProblem;
  const int64_t work = p.batch * chunks;
  const int64_t chunks_at_once = small ? work : 1;
  context.parallel_for(work / chunks_at_once, [&](int64_t begin, int64_t end) {
    ChunkWorker worker(p, tensors, weights);
    for (int64_t i = begin * chunks_at_once; i < end * chunks_at_once; ++i) {
      const int64_t first = i % chunks * kChunk;
      worker.run(i / chunks, first, std::min(first + kChunk, windows));
    }
  });
}

}  // namespace fastvision

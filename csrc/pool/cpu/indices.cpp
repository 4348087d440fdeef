// The maxima and where they are. All taps of a vector of windows in stock's order: row by row, so that of equal maxima
// the first one is found.
#include "core/scratch.h"
#include "core/simd.h"
#include "pool/cpu/maxima.h"
#include "pool/cpu/rows.h"

namespace fastvision {
namespace {

constexpr float kPadding = -std::numeric_limits<float>::infinity();

// Rows of input that stay in the L1 cache.
constexpr int64_t kStripFloats = 4 * 1024;

// Whole numbers in vectors that are moved, never computed with.
inline float as_lane(int64_t number) {
  return std::bit_cast<float>(static_cast<int32_t>(number));
}

template <class T, int Kernel, int Stride>
class IndexedPlanes {
 public:
  explicit IndexedPlanes(const Pooling& p)
      : p_(p),
        layout_(p, kPadding),
        band_(std::max<int64_t>((kStripFloats / layout_.floats() - p.kernel_h) / p.stride_h + 1, 1)),
        strip_(((band_ - 1) * p.stride_h + p.kernel_h) * layout_.floats()),
        result_(round_up(p.out_w, kLanes)),
        first_columns_(round_up(p.out_w, kLanes)),
        offsets_(p.kernel_h * p.kernel_w) {
    layout_.clear(strip_.data(), (band_ - 1) * p.stride_h + p.kernel_h);
    for (int64_t x = 0; x < round_up(p.out_w, kLanes); ++x) {
      first_columns_.data()[x] = as_lane(std::max<int64_t>(p.pad_w - x * Stride, 0));
    }
    for (int64_t tap = 0; tap < p.kernel_h * p.kernel_w; ++tap) {
      offsets_.data()[tap] = as_lane(tap / p.kernel_w * p.in_w + tap % p.kernel_w);
    }
  }

  void run(const T* input, T* output, int64_t* indices) {
    for (int64_t first = 0; first < p_.out_h; first += band_) {
      const int64_t last = std::min(p_.out_h, first + band_), top = window_rows(p_, first).first;
      const bool has_nan = fill(input, {top, window_rows(p_, last - 1).last});
      for (int64_t y = first; y < last; ++y) {
        T* target = output + y * p_.out_w;
        int64_t* places = indices + y * p_.out_w;
        if (has_nan) {
          pool_one_by_one(input, y, target, places);
        } else {
          pool(window_rows(p_, y), top, places);
          convert_row(result_.data(), target, p_.out_w);
        }
      }
    }
  }

 private:
  // Whether there is a NaN in one of the rows.
  bool fill(const T* input, Span rows) {
    Vec nan(0.f);
    for (int64_t row = rows.first; row < rows.last; ++row) {
      layout_.fill(strip_.data() + (row - rows.first) * layout_.floats(), [&](int64_t x, int64_t n) FASTVISION_INLINE {
        const Vec values = load_as_float(input + row * p_.in_w + x, n);
        nan = nan | (values != values);
        return values;
      });
    }
    return nan.zero_mask() != (1 << kLanes) - 1;
  }

  // A row of windows, of rows of the strip that begins with row `top`.
  void pool(Span rows, int64_t top, int64_t* indices) {
    const float* strip = strip_.data() + (rows.first - top) * layout_.floats();
    for_each_vector(p_.out_w, [&](int64_t x, int64_t n) FASTVISION_INLINE {
      Vec best(kPadding), winner = Vec::loadu(first_columns_.data() + x);
      const float* offset = offsets_.data();
      for (int64_t row = 0; row < rows.last - rows.first; ++row) {
        const auto take = [&](int64_t tap) FASTVISION_INLINE {
          const Vec values = Vec::loadu(layout_.tap(strip + row * layout_.floats(), tap) + x);
          winner = Vec::blendv(winner, Vec(*offset++), values > best);
          best = max_keeping_second(values, best);
        };
        if constexpr (Kernel == 0) {
          for (int64_t tap = 0; tap < p_.kernel_w; ++tap) take(tap);
        } else {
          unroll<Kernel>(take);
        }
      }
      best.store(result_.data() + x);
      int32_t winners[kLanes];
      winner.store(reinterpret_cast<float*>(winners));
      const int64_t first = rows.first * p_.in_w + x * Stride - p_.pad_w;
      const auto store = [&](int64_t count) FASTVISION_INLINE {
        for (int64_t i = 0; i < count; ++i) indices[x + i] = first + i * Stride + winners[i];
      };
      n == kLanes ? store(kLanes) : store(n);
    });
  }

  // As stock does it, with its way with NaN: the last one wins.
  void pool_one_by_one(const T* input, int64_t y, T* output, int64_t* indices) {
    const Span rows = window_rows(p_, y);
    for (int64_t x = 0; x < p_.out_w; ++x) {
      const int64_t left = x * Stride - p_.pad_w;
      const Span columns{std::max<int64_t>(left, 0), std::min(left + p_.kernel_w, p_.in_w)};
      float best = kPadding;
      int64_t winner = rows.first * p_.in_w + columns.first;
      for (int64_t row = rows.first; row < rows.last; ++row) {
        for (int64_t i = row * p_.in_w + columns.first; i < row * p_.in_w + columns.last; ++i) {
          const float value = input[i];
          if (value > best || value != value) {
            best = value;
            winner = i;
          }
        }
      }
      output[x] = best;
      indices[x] = winner;
    }
  }

  const Pooling& p_;
  const PaddedRow<Stride> layout_;
  const int64_t band_;
  FloatScratch strip_, result_, first_columns_, offsets_;
};

template <class T, int Kernel, int Stride>
void run(const Pooling& p, const MaxPoolingArrays& arrays, int64_t first, int64_t last) {
  IndexedPlanes<T, Kernel, Stride> planes(p);
  for (int64_t i = first; i < last; ++i) {
    const int64_t at = i * p.out_h * p.out_w;
    planes.run(static_cast<const T*>(arrays.input) + i * p.in_h * p.in_w, static_cast<T*>(arrays.output) + at,
               arrays.indices + at);
  }
}

}  // namespace

void pool_planes_with_indices(const Pooling& p, const MaxPoolingArrays& arrays, int64_t first, int64_t last) {
  visit_dtype(p.dtype, [&]<class T>() {
    const auto choose = [&]<int Stride>() {
      return p.kernel_w == 2 ? &run<T, 2, Stride> : p.kernel_w == 3 ? &run<T, 3, Stride> : &run<T, 0, Stride>;
    };
    (p.stride_w == 1 ? choose.template operator()<1>() : choose.template operator()<2>())(p, arrays, first, last);
  });
}

}  // namespace fastvision

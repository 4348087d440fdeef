// Rows of a plane in fp32 between columns of padding, so that every tap of a row of windows is a load.
#pragma once

#include "core/integers.h"
#include "core/load.h"
#include "pool/pool.h"

namespace fastvision {

struct Span {
  int64_t first, last;  // behind the last one
};

// The input rows of an output row's windows.
inline Span window_rows(const Pooling& p, int64_t y) {
  const int64_t top = y * p.stride_h - p.pad_h;
  return {std::max<int64_t>(top, 0), std::min(top + p.kernel_h, p.in_h)};
}

// With stride 2 those columns that one tap meets follow each other: [column % 2][column / 2].
template <int Stride>
class PaddedRow {
 public:
  PaddedRow(const Pooling& p, float padding)
      : padding_(padding),
        width_(p.in_w),
        pad_(p.pad_w),
        phase_(std::max(round_up(p.out_w, kLanes), (p.pad_w + round_up(p.in_w, Stride * kLanes)) / Stride + 1) +
               p.kernel_w + kLanes) {}

  int64_t floats() const { return Stride * phase_; }

  // What is to be done once to memory of rows. `fill` leaves padding as it is.
  void clear(float* rows, int64_t count) const { std::fill_n(rows, count * floats(), padding_); }

  // columns(x, n) is the vector of columns from x on, of which n are in the plane.
  template <class Columns>
  void fill(float* row, const Columns& columns) const {
    const Vec padding(padding_);
    if constexpr (Stride == 1) {
      float* target = row + pad_;
      int64_t x = 0;
      for (; x + kLanes <= width_; x += kLanes) columns(x, kLanes).store(target + x);
      if (x == width_) return;
      columns(x, width_ - x).store(target + x);
      padding.store(target + width_);
    } else {
      float* even = row + pad_ % 2 * phase_ + pad_ / 2;             // columns 0, 2, 4, ...
      float* odd = row + (pad_ + 1) % 2 * phase_ + (pad_ + 1) / 2;  // 1, 3, 5, ...
      const auto store = [&](int64_t x, const Vec& left, const Vec& right) FASTVISION_INLINE {
        const auto [first, second] = at::vec::deinterleave2(left, right);
        first.store(even + x / 2);
        second.store(odd + x / 2);
      };
      int64_t x = 0;
      for (; x + 2 * kLanes <= width_; x += 2 * kLanes) store(x, columns(x, kLanes), columns(x + kLanes, kLanes));
      if (x == width_) return;
      const int64_t rest = width_ - x;
      store(x, columns(x, std::min(rest, kLanes)), rest > kLanes ? columns(x + kLanes, rest - kLanes) : padding);
      padding.store(even + (width_ + 1) / 2);
      padding.store(odd + width_ / 2);
    }
  }

  // Where a tap meets the first window; the next windows' follow.
  const float* tap(const float* row, int64_t column) const { return row + column % Stride * phase_ + column / Stride; }

 private:
  const float padding_;
  const int64_t width_, pad_, phase_;
};

// Calls f(x, n) for vectors of an output row, n lanes of which are to be kept. The last one lies over the one before,
// so that n is kLanes but where a row is shorter.
template <class F>
inline FASTVISION_INLINE void for_each_vector(int64_t width, const F& f) {
  if (width < kLanes) return f(0, width);
  for (int64_t x = 0; x < width; x += kLanes) f(std::min(x, width - kLanes), kLanes);
}

}  // namespace fastvision

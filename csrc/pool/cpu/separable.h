// Pools that are taken of the rows of a row of windows first, then of the columns.
#pragma once

#include "core/scratch.h"
#include "core/simd.h"
#include "pool/cpu/rows.h"

namespace fastvision {

// A Reduction is made from the problem. reduce<Count>(count, load) is that of the vectors load(0) to load(count - 1);
// `Count` is their number if that is known (not zero) at compile time. finish(reduced, x) makes the results of columns
// from x on, in the output row that start_row() has been told.
//
// Windows of Kernel columns (any number where it is zero), Stride (1, 2, or another where it is zero) apart.
template <class Reduction, class T, int Kernel, int Stride>
class Planes {
 public:
  template <class Problem>
  explicit Planes(const Problem& p)
      : p_(p),
        reduction_(p),
        layout_(p, Reduction::kPadding),
        rows_(kRows * layout_.floats()),
        result_(is_float ? 0 : round_up(p.out_w, kLanes)) {
    layout_.clear(rows_.data(), kRows);
  }

  void run(const T* input, T* output) {
    for (int64_t first = 0; first < p_.out_h; first += kRows) {
      const int64_t last = std::min(first + kRows, p_.out_h);
      for (int64_t y = first; y < last; ++y) fill(input, window_rows(p_, y), row(y - first));
      for (int64_t y = first; y < last; ++y) reduce_row(row(y - first), y, output + y * p_.out_w);
    }
  }

 private:
  static constexpr bool is_float = std::is_same_v<T, float>;
  // Rows that are reduced one after the other: a load that two stores meet in waits until both are through (Zen 4,
  // 768 planes: average of 3x3 @14 0.56, @17 0.72 of the time; maxima of 3x3 0.77).
  static constexpr int64_t kRows = 4;

  float* row(int64_t i) { return rows_.data() + i * layout_.floats(); }

  void reduce_row(const float* row, int64_t y, T* target) {
    reduction_.start_row(y);
    if constexpr (is_float) {
      // Where a row is shorter than a vector, what is too much is written over by the next row.
      const bool fits = (p_.out_h - y) * p_.out_w >= kLanes;
      reduce_columns(row, target, fits);
    } else {
      reduce_columns(row, result_.data(), true);
      convert_row(result_.data(), target, p_.out_w);
    }
  }

  void fill(const T* input, Span rows, float* target) {
    const T* source = input + rows.first * p_.in_w;
    const int64_t count = rows.last - rows.first;
    const auto fill_from = [&]<int Rows>() {
      layout_.fill(target, [&](int64_t x, int64_t n) FASTVISION_INLINE {
        return Reduction::template reduce<Rows>(
            count, [&](int64_t row) FASTVISION_INLINE { return load_as_float(source + row * p_.in_w + x, n); });
      });
    };
    switch (count) {
      case 1:
        return fill_from.template operator()<1>();
      case 2:
        return fill_from.template operator()<2>();
      case 3:
        return fill_from.template operator()<3>();
      default:
        return fill_from.template operator()<0>();
    }
  }

  void reduce_columns(const float* row, float* target, bool fits) {
    if constexpr (Stride == 0) {
      for (int64_t x = 0; x < p_.out_w; ++x) {
        target[x] = reduction_.finish(Reduction::reduce(row + x * p_.stride_w, p_.kernel_w), x);
      }
    } else {
      for_each_vector(p_.out_w, [&](int64_t x, int64_t n) FASTVISION_INLINE {
        const Vec reduced = Reduction::template reduce<Kernel>(
            p_.kernel_w, [&](int64_t tap) FASTVISION_INLINE { return Vec::loadu(layout_.tap(row, tap) + x); });
        const Vec result = reduction_.finish(reduced, x);
        n == kLanes || fits ? result.store(target + x) : result.store(target + x, n);
      });
    }
  }

  const Pooling& p_;
  Reduction reduction_;
  const PaddedRow<Stride == 2 ? 2 : 1> layout_;
  FloatScratch rows_, result_;
};

// Planes [first, last).
template <class Reduction, class Problem, class Arrays>
void pool_separately(const Problem& p, const Arrays& arrays, int64_t first, int64_t last) {
  visit_dtype(p.dtype, [&]<class T>() {
    const auto run = [&]<int Kernel, int Stride>() {
      Planes<Reduction, T, Kernel, Stride> planes(p);
      for (int64_t i = first; i < last; ++i) {
        planes.run(static_cast<const T*>(arrays.input) + i * p.in_h * p.in_w,
                   static_cast<T*>(arrays.output) + i * p.out_h * p.out_w);
      }
    };
    const auto run_strided = [&]<int Stride>() {
      switch (p.kernel_w) {
        case 2:
          return run.template operator()<2, Stride>();
        case 3:
          return run.template operator()<3, Stride>();
        default:
          return run.template operator()<0, Stride>();
      }
    };
    switch (p.stride_w) {
      case 1:
        return run_strided.template operator()<1>();
      case 2:
        return run_strided.template operator()<2>();
      default:
        return run.template operator()<0, 0>();
    }
  });
}

}  // namespace fastvision

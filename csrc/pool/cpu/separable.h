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
        row_(layout_.floats()),
        result_(is_float ? 0 : round_up(p.out_w, kLanes)) {
    layout_.clear(row_.data(), 1);
  }

  void run(const T* input, T* output) {
    for (int64_t y = 0; y < p_.out_h; ++y) {
      reduction_.start_row(y);
      fill(input, window_rows(p_, y));
      T* target = output + y * p_.out_w;
      if constexpr (is_float) {
        // Where a row is shorter than a vector, what is too much is written over by the next row.
        const bool fits = (p_.out_h - y) * p_.out_w >= kLanes;
        reduce_columns(target, fits);
      } else {
        reduce_columns(result_.data(), true);
        convert_row(result_.data(), target, p_.out_w);
      }
    }
  }

 private:
  static constexpr bool is_float = std::is_same_v<T, float>;

  void fill(const T* input, Span rows) {
    const T* source = input + rows.first * p_.in_w;
    const int64_t count = rows.last - rows.first;
    const auto fill_from = [&]<int Rows>() {
      layout_.fill(row_.data(), [&](int64_t x, int64_t n) FASTVISION_INLINE {
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

  void reduce_columns(float* target, bool fits) {
    if constexpr (Stride == 0) {
      for (int64_t x = 0; x < p_.out_w; ++x) {
        target[x] = reduction_.finish(Reduction::reduce(row_.data() + x * p_.stride_w, p_.kernel_w), x);
      }
    } else {
      for_each_vector(p_.out_w, [&](int64_t x, int64_t n) FASTVISION_INLINE {
        const Vec reduced = Reduction::template reduce<Kernel>(
            p_.kernel_w, [&](int64_t tap) FASTVISION_INLINE { return Vec::loadu(layout_.tap(row_.data(), tap) + x); });
        const Vec result = reduction_.finish(reduced, x);
        n == kLanes || fits ? result.store(target + x) : result.store(target + x, n);
      });
    }
  }

  const Pooling& p_;
  Reduction reduction_;
  const PaddedRow<Stride == 2 ? 2 : 1> layout_;
  FloatScratch row_, result_;
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

// The maxima alone: of the rows of a row of windows first, then of the columns.
#include "pool/cpu/maxima.h"

#include "core/scratch.h"
#include "core/simd.h"
#include "pool/cpu/rows.h"

namespace fastvision {
namespace {

// The maximum of load(0) to load(count - 1); `Count` is their number if that is known (not zero) at compile time.
template <int Count, class Load>
inline FASTVISION_INLINE Vec max_of(int64_t count, const Load& load) {
  if constexpr (Count == 1) {
    return load(0);
  } else if constexpr (Count == 2) {
    return at::vec::maximum(load(0), load(1));
  } else if constexpr (Count == 3) {
    return max_keeping_nan(load(0), load(1), load(2));
  } else {
    Vec best = load(0);
    for (int64_t i = 1; i < count; ++i) best = at::vec::maximum(best, load(i));
    return best;
  }
}

// Windows of Kernel columns (any number where it is zero), Stride (1, 2, or another where it is zero) apart.
template <class T, int Kernel, int Stride>
class Planes {
 public:
  explicit Planes(const MaxPooling& p)
      : p_(p), layout_(p), row_(layout_.floats()), result_(is_float ? 0 : round_up(p.out_w, kLanes)) {
    layout_.clear(row_.data(), 1);
  }

  void run(const T* input, T* output) {
    for (int64_t y = 0; y < p_.out_h; ++y) {
      fill(input, window_rows(p_, y));
      T* target = output + y * p_.out_w;
      if constexpr (is_float) {
        // Where a row is shorter than a vector, what is too much is written over by the next row.
        const bool fits = (p_.out_h - y) * p_.out_w >= kLanes;
        max_of_columns(target, fits);
      } else {
        max_of_columns(result_.data(), true);
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
        return max_of<Rows>(
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

  void max_of_columns(float* target, bool fits) {
    if constexpr (Stride == 0) {
      for (int64_t x = 0; x < p_.out_w; ++x) {
        const float* window = row_.data() + x * p_.stride_w;
        float best = window[0];
        for (int64_t k = 1; k < p_.kernel_w; ++k) best = window[k] > best || window[k] != window[k] ? window[k] : best;
        target[x] = best;
      }
    } else {
      for_each_vector(p_.out_w, [&](int64_t x, int64_t n) FASTVISION_INLINE {
        const Vec best = max_of<Kernel>(
            p_.kernel_w, [&](int64_t tap) FASTVISION_INLINE { return Vec::loadu(layout_.tap(row_.data(), tap) + x); });
        n == kLanes || fits ? best.store(target + x) : best.store(target + x, n);
      });
    }
  }

  const MaxPooling& p_;
  const PaddedRow<Stride == 2 ? 2 : 1> layout_;
  FloatScratch row_, result_;
};

template <class T, int Kernel, int Stride>
void run(const MaxPooling& p, const MaxPoolingArrays& arrays, int64_t first, int64_t last) {
  Planes<T, Kernel, Stride> planes(p);
  for (int64_t i = first; i < last; ++i) {
    planes.run(static_cast<const T*>(arrays.input) + i * p.in_h * p.in_w,
               static_cast<T*>(arrays.output) + i * p.out_h * p.out_w);
  }
}

}  // namespace

void pool_planes(const MaxPooling& p, const MaxPoolingArrays& arrays, int64_t first, int64_t last) {
  visit_dtype(p.dtype, [&]<class T>() {
    const auto choose = [&]<int Stride>() {
      return p.kernel_w == 2 ? &run<T, 2, Stride> : p.kernel_w == 3 ? &run<T, 3, Stride> : &run<T, 0, Stride>;
    };
    const auto run_planes = p.stride_w == 1   ? choose.template operator()<1>()
                            : p.stride_w == 2 ? choose.template operator()<2>()
                                              : &run<T, 0, 0>;
    run_planes(p, arrays, first, last);
  });
}

}  // namespace fastvision

#include "conv/cpu/finish.h"

#include "core/load.h"
#include "core/sigmoid.h"
#include "core/simd.h"

namespace fastvision {
namespace {

// As ATen, in order of operations and for not-a-numbers.
struct Relu6 {
  static FASTVISION_INLINE Vec of(const Vec& x) {
    return min_keeping_second(Vec(6.f), max_keeping_second(Vec(0.f), x));
  }
};

struct Hardswish {
  static FASTVISION_INLINE Vec of(const Vec& x) { return x * Relu6::of(x + Vec(3.f)) / Vec(6.f); }
};

struct Silu {
  static FASTVISION_INLINE Vec of(const Vec& x) {
    // Where sigmoid would not become smaller: negative zero, and not a number for an infinity.
    return Vec::blendv(x * sigmoid(x), x * Vec(0.f), x < Vec(-88.f));
  }
};

template <class T, class Function>
void run(void* elements, int64_t count) {
  auto* row = static_cast<T*>(elements);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t n = std::min(kLanes, count - i);
    const Vec result = Function::of(load_as_float(row + i, n));
    if (std::is_same_v<T, float> && n == kLanes) {
      result.store(row + i);
    } else {
      float lanes[kLanes];
      result.store(lanes);
      convert_row(lanes, row + i, n);
    }
  }
}

}  // namespace

Finish::Finish(DType dtype, Activation activation) {
  visit_dtype(dtype, [&]<class T>() {
    switch (activation) {
      case Activation::none:
      case Activation::relu:  // every kernel does it in registers
        break;
      case Activation::relu6:
        run_ = &run<T, Relu6>;
        break;
      case Activation::silu:
        run_ = &run<T, Silu>;
        break;
      case Activation::hardswish:
        run_ = &run<T, Hardswish>;
        break;
    }
  });
}

}  // namespace fastvision

// The maxima alone.
#include "pool/cpu/maxima.h"

#include <limits>

#include "pool/cpu/separable.h"

namespace fastvision {
namespace {

struct Maximum {
  static constexpr float kPadding = -std::numeric_limits<float>::infinity();

  explicit Maximum(const Pooling&) {}

  template <int Count, class Load>
  static FASTVISION_INLINE Vec reduce(int64_t count, const Load& load) {
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

  static float reduce(const float* window, int64_t count) {
    float best = window[0];
    for (int64_t k = 1; k < count; ++k) best = window[k] > best || window[k] != window[k] ? window[k] : best;
    return best;
  }

  void start_row(int64_t) {}
  template <class Value>
  static FASTVISION_INLINE const Value& finish(const Value& best, int64_t) {
    return best;
  }
};

}  // namespace

void pool_planes(const Pooling& p, const MaxPoolingArrays& arrays, int64_t first, int64_t last) {
  pool_separately<Maximum>(p, arrays, first, last);
}

}  // namespace fastvision

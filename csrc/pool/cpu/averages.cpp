// The sums of windows, divided by what stock divides them by.
#include "pool/cpu/averages.h"

#include "pool/cpu/separable.h"

namespace fastvision {
namespace {

class Average {
 public:
  static constexpr float kPadding = 0.f;

  explicit Average(const AvgPooling& p) : p_(p), columns_(round_up(p.out_w, kLanes)) {
    for (int64_t x = 0; x < round_up(p.out_w, kLanes); ++x) {
      columns_.data()[x] = p.divisor ? 1.f : count(x, p.kernel_w, p.stride_w, p.pad_w, p.in_w);
    }
  }

  template <int Count, class Load>
  static FASTVISION_INLINE Vec reduce(int64_t count, const Load& load) {
    Vec sum = load(0);
    if constexpr (Count > 0) {
      unroll<Count - 1>([&](auto i) FASTVISION_INLINE { sum = sum + load(i + 1); });
    } else {
      for (int64_t i = 1; i < count; ++i) sum = sum + load(i);
    }
    return sum;
  }

  static float reduce(const float* window, int64_t count) {
    float sum = window[0];
    for (int64_t k = 1; k < count; ++k) sum += window[k];
    return sum;
  }

  void start_row(int64_t y) {
    rows_ = p_.divisor ? static_cast<float>(p_.divisor) : count(y, p_.kernel_h, p_.stride_h, p_.pad_h, p_.in_h);
  }

  FASTVISION_INLINE Vec finish(const Vec& sum, int64_t x) {
    return sum / (Vec(rows_) * Vec::loadu(columns_.data() + x));
  }
  float finish(float sum, int64_t x) { return sum / (rows_ * columns_.data()[x]); }

 private:
  // As ATen: what is counted is clipped to the padded image, or to the image.
  float count(int64_t i, int64_t kernel, int64_t stride, int64_t pad, int64_t size) const {
    const int64_t begin = i * stride - pad, end = std::min(begin + kernel, size + pad);
    return static_cast<float>(p_.count_include_pad ? end - begin : std::min(end, size) - std::max<int64_t>(begin, 0));
  }

  const AvgPooling& p_;
  FloatScratch columns_;  // elements of a window that are counted in a row
  float rows_ = 1.f;      // and in a column, or the divisor
};

}  // namespace

void average_planes(const AvgPooling& p, const AvgPoolingArrays& arrays, int64_t first, int64_t last) {
  pool_separately<Average>(p, arrays, first, last);
}

}  // namespace fastvision

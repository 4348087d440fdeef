#include "linear/cpu/many_rows.h"

#include <algorithm>

#include "core/activation.h"
#include "core/gemm.h"
#include "core/integers.h"
#include "core/scratch.h"
#include "core/simd.h"

namespace fastvision {
namespace {

constexpr int kVectors = 2;
constexpr int64_t kPanel = kVectors * kLanes;  // output features

// Input features of a packed panel, which the L2 cache holds, and products that are added in a row.
constexpr int64_t kDepth = 1024, kChain = 32;

// Rows whose sums of chains stay in the cache.
constexpr int64_t kRowBlock = 192;

class Worker {
 public:
  Worker(const Linear& p, const LinearForward& tensors)
      : p_(p),
        tensors_(tensors),
        panel_(std::min(p.in_features, kDepth) * kPanel),
        sums_(std::min(p.rows, kRowBlock) * kPanel) {}

  // Output features [feature, feature + count).
  void run(int64_t feature, int64_t count) {
    for (int64_t first = 0; first < p_.in_features; first += kDepth) {
      const int64_t depth = std::min(kDepth, p_.in_features - first);
      pack(feature, count, first, depth);
      for (int64_t row = 0; row < p_.rows; row += kRowBlock) {
        multiply(row, std::min(kRowBlock, p_.rows - row), feature, count, first, depth);
      }
    }
  }

 private:
  void pack(int64_t feature, int64_t count, int64_t first, int64_t depth) {
    if (count < kPanel) std::fill_n(panel_.data(), depth * kPanel, 0.f);
    const float* weight = static_cast<const float*>(tensors_.weight) + feature * p_.weight_stride + first;
    transpose(weight, p_.weight_stride, count, depth, panel_.data(), kPanel);
  }

  void multiply(int64_t row, int64_t rows, int64_t feature, int64_t count, int64_t first, int64_t depth) {
    const bool is_first = first == 0, is_last = first + depth == p_.in_features;
    const Vec floor(activation_floor(is_last && p_.activation == Activation::relu));
    Vec bias[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const int64_t n = std::clamp<int64_t>(count - v * kLanes, 0, kLanes);
      bias[v] = is_last && tensors_.bias ? Vec::loadu(tensors_.bias + feature + v * kLanes, n) : Vec(0.f);
    }
    const auto finish = [=, this](int64_t i, int v, const Vec& sum) FASTVISION_INLINE {
      float* output = tensors_.output + (row + i) * p_.out_features + feature + v * kLanes;
      const int64_t n = count - v * kLanes;
      if (n >= kLanes) {
        const Vec total = is_first ? sum : Vec::loadu(output) + sum;
        max_keeping_second(floor, total + bias[v]).store(output);
      } else if (n > 0) {
        const Vec total = is_first ? sum : Vec::loadu(output, n) + sum;
        max_keeping_second(floor, total + bias[v]).store(output, n);
      }
    };
    const float* input = tensors_.input + row * p_.input_stride + first;
    multiply_rows<kVectors>({input, p_.input_stride, panel_.data(), kPanel, depth, kChain, depth, sums_.data()}, rows,
                            finish);
  }

  const Linear& p_;
  const LinearForward& tensors_;
  FloatScratch panel_, sums_;
};

}  // namespace

void linear_forward_of_many_rows(const Linear& p, const LinearForward& tensors, Context& context) {
  context.parallel_for(ceil_div(p.out_features, kPanel), [&](int64_t begin, int64_t end) {
    Worker worker(p, tensors);
    for (int64_t panel = begin; panel < end; ++panel) {
      worker.run(panel * kPanel, std::min(kPanel, p.out_features - panel * kPanel));
    }
  });
}

}  // namespace fastvision

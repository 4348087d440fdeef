#include "linear/cpu/linear.h"

#include "core/processor.h"
#include "core/simd.h"
#include "linear/cpu/backward.h"
#include "linear/cpu/forward.h"
#include "linear/cpu/many_rows.h"

namespace fastvision {
namespace {

// Rows that read the weights where they are. Zen 3, one core, stock's time over ours at 1, 4, 8, 16, 32 rows: 128>128
// 2.1, 1.6, 1.4, 1.1, 0.8; 1152>128 1.5, 1.5, 1.3, 1.1, 1.0; 784>512 1.6, 1.8, 1.4, 1.2, 0.9. Weights that come from
// memory: 4096>4096 at 1, 8, 32 rows 1.1, 2.1, 1.5. Short rows cost more than their products: 20>784 at 2, 4, 8
// rows 1.4, 0.9, 0.7 (Zen 5).
bool has_few_rows(const Linear& p) {
  constexpr int64_t kFewRows = 8, kShortRows = 2, kRowsOfBigWeights = 32, kBigWeights = 1 << 22;
  if (p.in_features < 2 * kLanes) return p.rows <= kShortRows;
  return p.rows <= (p.in_features * p.out_features >= kBigWeights ? kRowsOfBigWeights : kFewRows);
}

// For more rows. Stock's products are MKL's, which do without AVX-512 on AMD's processors: its time over ours at 9, 32,
// 512 rows 128>128 1.6, 1.8, 2.1; 784>512 1.9, 2.0, 2.2; 20>784 1.2, 1.3, 1.4; 4096>4096 at 64 rows 2.0 (Zen 5). On a
// Zen 4 1.0 to 1.4.
bool packing_pays(const Linear& p) {
  return multiplies_wider_than_stock() && p.weight == LinearWeight::f32;
}

bool is_faster(const Linear& p) {
  return has_few_rows(p) || packing_pays(p);
}

const char* forward(const Linear& p, const LinearForward& tensors, Context& context) {
  if (has_few_rows(p) || !packing_pays(p) || tensors.scale) return linear_forward(p, tensors, context);
  linear_forward_of_many_rows(p, tensors, context);
  return nullptr;
}

// Gradients that are worth packing for where this library multiplies more in a cycle than stock's: as the forward of
// many rows, but not measured. Fewer products are stock's on every machine (Zen 3: 0.4 to 0.9), and so are all on a Zen
// 4 (64 rows of 784>512 0.9).
bool packing_gradients_pays(const Linear& p) {
  constexpr int64_t kMinRows = 16, kMinProducts = 1 << 18;
  return multiplies_wider_than_stock() && !processor_halves_avx512() && p.rows >= kMinRows &&
         p.rows * p.in_features * p.out_features >= kMinProducts;
}

// Floats of a result from which on ours is faster. Zen 3, one core, both in kept memory, stock's time over ours at 8,
// 32, 128 rows: 86528>128 1.1, 1.1, 1.1; 16384>1024 1.6, 1.3, 1.2; 25088>512 1.1, 0.9, 1.0; 4096>1024 1.0, 1.0, 1.0.
constexpr int64_t kBigResult = 1 << 23;

bool weight_gradient_is_faster(const Linear& p) {
  return p.in_features * p.out_features >= kBigResult || packing_gradients_pays(p);
}

// Also wide results of a short depth, which stock is slow at, at the same rows: 86528>128 1.3, 1.2, 1.1;
// 16384>1024 2.1, 1.7, 1.3; 4096>1024 1.5, 1.2, 1.1; 4096>4096 0.8, 1.1, 1.1; 2048>1000 1.0, 0.9, 1.0.
bool input_gradient_is_faster(const Linear& p) {
  constexpr int64_t kWideFeatures = 4096, kShortDepth = 512;
  const bool is_wide = p.in_features >= kWideFeatures && p.in_features >= 4 * p.out_features;
  const bool is_big = p.rows * p.in_features >= kBigResult && p.out_features <= kShortDepth;
  return is_wide || is_big || packing_gradients_pays(p);
}

}  // namespace

const LinearKernels* linear_cpu_kernels() {
  static const LinearKernels kernels{&forward, &linear_backward, &is_faster, &input_gradient_is_faster,
                                     &weight_gradient_is_faster};
  return &kernels;
}

}  // namespace fastvision

#include "rnn/cpu/rnn.h"

#include "rnn/cpu/arithmetic.h"
#include "rnn/cpu/backward.h"
#include "rnn/cpu/backward_steps.h"
#include "rnn/cpu/forward.h"

namespace fastvision {
namespace {

// Where stock trains faster. One step does not pay for packing the weights, except with AVX-512 in float16, which takes
// stock 2 to 20 times as long. Where the processor multiplies bfloat16, stock's gradients do, which ours do not yet:
// time of stock / ours on Zen 5, 20 to 100 steps, LSTM 0.7 to 1.0, GRU of 256 units 1.6, of 512 units 0.8. Packed
// sequences and masks are ours.
bool trains_faster_in_stock(const RnnLayer& p) {
  if (p.steps == 1) return p.dtype == DType::bf16 || (p.dtype == DType::f16 && !kMultipliesSingleSteps);
  constexpr int64_t kMostUnits = 256;
  return p.dtype == DType::bf16 && processor_multiplies_pairs() && p.steps > 1 && !p.has_masks &&
         (p.mode == RnnMode::lstm || p.hidden_size > kMostUnits);
}

bool supports(const RnnLayer& p, bool training) {
  return !training || (p.storage == RnnStorage::same && !trains_faster_in_stock(p));
}

}  // namespace

const RnnKernels* rnn_cpu_kernels() {
  static const RnnKernels kernels{&supports, &rnn_forward, &rnn_backward, /*takes_masks=*/true,
                                  /*decodes_weights=*/true};
  return &kernels;
}

}  // namespace fastvision

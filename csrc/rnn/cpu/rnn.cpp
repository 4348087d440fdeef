#include "rnn/cpu/rnn.h"

#include "core/processor.h"
#include "rnn/cpu/arithmetic.h"
#include "rnn/cpu/backward.h"
#include "rnn/cpu/backward_steps.h"
#include "rnn/cpu/forward.h"

namespace fastvision {
namespace {

// Where stock trains faster. One step does not pay for packing the weights, except with AVX-512 in float16 on AMD's
// processors, which takes stock 2 to 20 times as long. Where the processor multiplies bfloat16, stock's gradients do,
// which ours do not yet: time of stock / ours on Zen 5, 20 to 100 steps, LSTM 0.7 to 1.0, GRU of 256 units 1.6, of 512
// units 0.8; by tiles (Emerald Rapids) GRU of 256 units 0.8. Masks are ours.
bool trains_faster_in_stock(const RnnLayer& p) {
  if (p.steps == 1) return p.dtype == DType::bf16 || (p.dtype == DType::f16 && !multiplies_wider_than_stock());
  constexpr int64_t kMostUnits = 256;
  if (p.dtype != DType::bf16 || p.steps < 1 || p.has_masks) return false;
  if (processor_has_bf16_tiles()) return true;
  return processor_multiplies_pairs() && (p.mode == RnnMode::lstm || p.hidden_size > kMostUnits);
}

// Where stock's tiles pay for what surrounds them. Emerald Rapids, time of stock / ours by thousands of products a
// step: GRU and cells 2,100 2.2, 2,400 1.3, 4,700 0.9 to 1.06, 6,300 0.9, 19,000 0.4; LSTM layers, which stock runs as
// a whole, 33 2.5, 80 1.04, 390 0.6.
bool tiles_are_faster(const RnnLayer& p) {
  constexpr int64_t kMostProducts = 4'500'000, kMostProductsOfLstm = 100'000;
  if (p.dtype != DType::bf16 || p.storage != RnnStorage::same || p.has_masks || !processor_has_bf16_tiles()) {
    return false;
  }
  const bool whole_lstm = p.mode == RnnMode::lstm && p.steps > 1 && !p.is_packed;
  const int64_t products = p.batch * p.gates() * p.hidden_size * (p.input_size + p.hidden_size);
  return products > (whole_lstm ? kMostProductsOfLstm : kMostProducts);
}

bool supports(const RnnLayer& p, bool training) {
  if (training) return p.storage == RnnStorage::same && !trains_faster_in_stock(p);
  return !tiles_are_faster(p);
}

}  // namespace

const RnnKernels* rnn_cpu_kernels() {
  static const RnnKernels kernels{&supports, &rnn_forward, &rnn_backward, /*takes_masks=*/true,
                                  /*decodes_weights=*/true};
  return &kernels;
}

}  // namespace fastvision

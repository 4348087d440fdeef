#include "rnn/cpu/rnn.h"

#include "rnn/cpu/backward.h"
#include "rnn/cpu/backward_steps.h"
#include "rnn/cpu/forward.h"

namespace fastvision {
namespace {

// In 16 bits one step is too little to pay for packing the weights.
bool supports(const RnnLayer& p, bool training) {
  if (!training) return true;
  return p.storage == RnnStorage::same && (p.steps != 1 || multiplies_by_stock(p));
}

}  // namespace

const RnnKernels* rnn_cpu_kernels() {
  static const RnnKernels kernels{&supports, &rnn_forward, &rnn_backward, /*takes_masks=*/true,
                                  /*decodes_weights=*/true};
  return &kernels;
}

}  // namespace fastvision

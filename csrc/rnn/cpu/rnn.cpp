#include "rnn/cpu/rnn.h"

#include "rnn/cpu/backward.h"
#include "rnn/cpu/forward.h"

namespace fastvision {
namespace {

bool supports(const RnnLayer&, bool) {
  return false;
}

}  // namespace

const RnnKernels* rnn_cpu_kernels() {
  static const RnnKernels kernels{&supports, &rnn_forward, &rnn_backward};
  return &kernels;
}

}  // namespace fastvision

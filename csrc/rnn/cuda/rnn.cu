// The rnn family's kernel table for CUDA.
#include "rnn/cuda/backward.h"
#include "rnn/cuda/forward.h"
#include "rnn/cuda/kernels.h"
#include "rnn/cuda/launch.h"
#include "rnn/cuda/sequence.h"

namespace fastvision {
namespace rnn_cuda {

bool sequence_fits(const RnnLayer& p) {
  // The step of so many sequences is a product large enough for cuBLAS. Not measured.
  constexpr int64_t kMostSequences = 64;
  constexpr int64_t kMostArrivals = int64_t{1} << 31;
  const int64_t blocks = ceil_div(p.hidden_size, kWarps) * p.directions;
  if (p.batch_sizes || p.steps < 2 || p.batch > kMostSequences || (p.steps + 1) * blocks >= kMostArrivals) return false;
  return gpu::with_element(p.dtype, [&](auto element) {
    using Element = decltype(element);
    return p.hidden_size <= kMostQuads<Element> * kQuad * kLanes &&
           blocks <= SequenceKernels<Element>::resident_blocks(p);
  });
}

namespace {

// The kernels count along a state and along the columns of a weight in 32 bits, over elements in 64.
bool supports(const RnnLayer& p, bool) {
  constexpr int64_t kMostSize = 1 << 28;
  return p.input_size < kMostSize && p.hidden_size < kMostSize;
}

const char* run_forward(const RnnLayer& p, const RnnForward& arrays, Context& context) {
  return gpu::with_element(p.dtype, [&](auto element) { return forward<decltype(element)>(p, arrays, context); });
}

const char* run_backward(const RnnLayer& p, const RnnBackward& arrays, Context& context) {
  return gpu::with_element(p.dtype, [&](auto element) { return backward<decltype(element)>(p, arrays, context); });
}

}  // namespace
}  // namespace rnn_cuda

const RnnKernels cuda_rnn_kernels{&rnn_cuda::supports, &rnn_cuda::run_forward, &rnn_cuda::run_backward};

}  // namespace fastvision

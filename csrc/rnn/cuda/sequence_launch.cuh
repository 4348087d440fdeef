// The members of SequenceKernels, for the file of each type.
#pragma once

#include <algorithm>

#include "rnn/cuda/launch.h"
#include "rnn/cuda/sequence.h"

namespace fastvision::rnn_cuda {

template <RnnMode mode, class Element, int kQuads, int kRows>
struct SequenceKernel {
  static int64_t resident_blocks() {
    return std::min(gpu::resident_blocks<sequence_forward<mode, Element, kQuads, kRows>>(kThreads),
                    gpu::resident_blocks<sequence_backward<mode, Element, kQuads, kRows>>(kThreads));
  }
  static const char* run(dim3 grid, void* stream, const SequenceForward& p) {
    return gpu::launch_together<sequence_forward<mode, Element, kQuads, kRows>>(grid, dim3(kThreads), stream, p);
  }
  static const char* run(dim3 grid, void* stream, const SequenceBackward& p) {
    return gpu::launch_together<sequence_backward<mode, Element, kQuads, kRows>>(grid, dim3(kThreads), stream, p);
  }
};

template <RnnMode mode, class Element, int kQuads, class Run>
auto with_rows(const RnnLayer& p, const Run& run) {
  return p.batch == 1 ? run(SequenceKernel<mode, Element, kQuads, 1>{})
                      : run(SequenceKernel<mode, Element, kQuads, 8>{});
}

template <RnnMode mode, class Element, class Run>
auto with_quads(const RnnLayer& p, const Run& run) {
  constexpr int64_t kWidth = kLanes * kQuad;
  if (p.hidden_size <= 2 * kWidth) return with_rows<mode, Element, 2>(p, run);
  if (p.hidden_size <= 4 * kWidth) return with_rows<mode, Element, 4>(p, run);
  return with_rows<mode, Element, kMostQuads<Element>>(p, run);
}

template <class Element, class Run>
auto with_sequence_kernel(const RnnLayer& p, const Run& run) {
  return p.mode == RnnMode::lstm ? with_quads<RnnMode::lstm, Element>(p, run)
                                 : with_quads<RnnMode::gru, Element>(p, run);
}

inline dim3 sequence_grid(const RnnLayer& p) {
  return dim3(static_cast<unsigned>(ceil_div(p.hidden_size, kWarps)), static_cast<unsigned>(p.directions));
}

template <class Element>
int64_t SequenceKernels<Element>::resident_blocks(const RnnLayer& p) {
  return with_sequence_kernel<Element>(p, [](auto kernel) { return kernel.resident_blocks(); });
}
template <class Element>
const char* SequenceKernels<Element>::run(const RnnLayer& p, const SequenceForward& arrays, Context& context) {
  return with_sequence_kernel<Element>(
      p, [&](auto kernel) { return kernel.run(sequence_grid(p), context.stream(), arrays); });
}
template <class Element>
const char* SequenceKernels<Element>::run(const RnnLayer& p, const SequenceBackward& arrays, Context& context) {
  return with_sequence_kernel<Element>(
      p, [&](auto kernel) { return kernel.run(sequence_grid(p), context.stream(), arrays); });
}

}  // namespace fastvision::rnn_cuda

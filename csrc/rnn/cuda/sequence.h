// Launching the kernels that take all steps of a layer.
#pragma once

#include "core/context.h"
#include "rnn/cuda/sequence.cuh"

namespace fastvision::rnn_cuda {

// Whether they can: sequences equally long, weights that fit the registers of the device, few sequences.
bool sequence_fits(const RnnLayer& p);

// One object file per type: each holds a kernel for each way to lay out the weights.
template <class Element>
struct SequenceKernels {
  static int64_t resident_blocks(const RnnLayer& p);
  static const char* run(const RnnLayer& p, const SequenceForward& arrays, Context& context);
  static const char* run(const RnnLayer& p, const SequenceBackward& arrays, Context& context);
};

}  // namespace fastvision::rnn_cuda

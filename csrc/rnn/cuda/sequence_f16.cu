#include "rnn/cuda/sequence_launch.cuh"

namespace fastvision::rnn_cuda {

template struct SequenceKernels<__half>;

}  // namespace fastvision::rnn_cuda

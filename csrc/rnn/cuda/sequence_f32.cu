#include "rnn/cuda/sequence_launch.cuh"

namespace fastvision::rnn_cuda {

template struct SequenceKernels<float>;

}  // namespace fastvision::rnn_cuda

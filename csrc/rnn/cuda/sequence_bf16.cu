#include "rnn/cuda/sequence_launch.cuh"

namespace fastvision::rnn_cuda {

template struct SequenceKernels<__nv_bfloat16>;

}  // namespace fastvision::rnn_cuda

// The matrix products in fp32 as tf32, tensor cores.
#include "conv/cuda/gemm_launch.cuh"

namespace fastvision::conv_cuda {

template const char* launch_pixel_gemm<TF32>(PixelGemm, int64_t, bool, int, void*);
template const char* launch_weight_gemm<TF32>(WeightGemm, int64_t, void*);

}  // namespace fastvision::conv_cuda

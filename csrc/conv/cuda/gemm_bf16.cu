// The matrix products in bf16, tensor cores.
#include "conv/cuda/gemm_launch.cuh"

namespace fastvision::conv_cuda {

template const char* launch_pixel_gemm<BF16>(PixelGemm, int64_t, bool, int, void*);
template const char* launch_weight_gemm<BF16>(WeightGemm, int64_t, void*);

}  // namespace fastvision::conv_cuda

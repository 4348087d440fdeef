// The sample and its KL, and their gradients: one pass over memory, the noise in registers.
#include "vae/cuda/sample.h"

#include "core/normal.h"
#include "vae/cuda/sums.cuh"
#include "vae/terms.h"
#include "vae/visit.h"

namespace fastvision::vae_cuda {
namespace {

// Read from the device's memory, where a captured graph finds new words in every replay.
class Stream {
 public:
  __device__ explicit Stream(const int64_t* state)
      : seed_(static_cast<uint64_t>(state[0])), offset_(static_cast<uint64_t>(state[1])) {}

  template <int count>
  __device__ __forceinline__ void draw(int64_t first, float (&noise)[count]) const {
#pragma unroll
    for (int i = 0; i < count / 4; ++i) {
      float quad[4];
      normal_quad(seed_, offset_, static_cast<uint64_t>(first) / 4 + i, quad);
#pragma unroll
      for (int j = 0; j < 4; ++j) noise[4 * i + j] = quad[j];
    }
  }

 private:
  uint64_t seed_, offset_;
};

__global__ void __launch_bounds__(kThreads) noise(const int64_t* state, void* noise, int64_t elements, bool aligned) {
  const Stream stream(state);
  for_each_piece<float>(blockIdx.x, elements, aligned, [&](const Piece& piece) {
    float values[kWidth<float>];
    stream.draw(piece.first, values);
    store<float>(noise, piece, values);
  });
}

struct Forward {
  ReparameterizeForward arrays;
  int64_t elements;
  double kl_scale;  // of twice the KL
  GridSum kl;       // of a total
  bool aligned;
};

template <class Element, KlResult kl_result>
__global__ void __launch_bounds__(kThreads) sample_and_kl(const Forward p) {
  const Stream stream(p.arrays.state);
  float sum = 0.0f;
  for_each_piece<Element>(blockIdx.x, p.elements, p.aligned, [&](const Piece& piece) {
    constexpr int kCount = kWidth<Element>;
    float mu[kCount], logvar[kCount], noise[kCount], z[kCount], kl[kCount];
    load<Element>(p.arrays.mu, piece, mu);
    load<Element>(p.arrays.logvar, piece, logvar);
    stream.draw(piece.first, noise);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const auto d = deviation<ScalarMath>(logvar[j]);
      z[j] = sample<ScalarMath>(mu[j], noise[j], d);
      if constexpr (kl_result == KlResult::elements) kl[j] = 0.5f * twice_kl<ScalarMath>(mu[j], logvar[j], d);
      if constexpr (kl_result == KlResult::total) kl[j] = twice_kl<ScalarMath>(mu[j], logvar[j], d);
    }
    store<Element>(p.arrays.z, piece, z);
    if constexpr (kl_result == KlResult::elements) store<Element>(p.arrays.kl, piece, kl);
    if constexpr (kl_result == KlResult::total) sum += pairwise_sum(kl);
  });
  if constexpr (kl_result == KlResult::total) p.kl.add<Element>(sum, p.kl_scale);
}

struct Backward {
  ReparameterizeBackward arrays;
  int64_t elements;
  double kl_scale;
  bool aligned;
};

template <class Element, bool has_z, KlResult kl_result>
__global__ void __launch_bounds__(kThreads) sample_gradients(const Backward p) {
  const Stream stream(p.arrays.state);
  float total = 0.0f;
  if constexpr (kl_result == KlResult::total) total = load_scaled<Element>(p.arrays.grad_kl, p.kl_scale);
  for_each_piece<Element>(blockIdx.x, p.elements, p.aligned, [&](const Piece& piece) {
    constexpr int kCount = kWidth<Element>;
    float mu[kCount], logvar[kCount], noise[kCount], grad_z[kCount], grad_kl[kCount], by_mu[kCount], by_logvar[kCount];
    load<Element>(p.arrays.logvar, piece, logvar);
    if constexpr (kl_result != KlResult::absent) load<Element>(p.arrays.mu, piece, mu);
    if constexpr (kl_result == KlResult::elements) load<Element>(p.arrays.grad_kl, piece, grad_kl);
    if constexpr (has_z) {
      load<Element>(p.arrays.grad_z, piece, grad_z);
      stream.draw(piece.first, noise);
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const auto d = deviation<ScalarMath>(logvar[j]);
      by_mu[j] = has_z ? grad_z[j] : 0.0f;
      by_logvar[j] = 0.0f;  // doubled
      if constexpr (kl_result != KlResult::absent) {
        const float g = kl_result == KlResult::total ? total : grad_kl[j];
        by_logvar[j] = g * variance_minus_one<ScalarMath>(d);
        if constexpr (has_z) by_logvar[j] = ScalarMath::fma(grad_z[j] * noise[j], d.sigma, by_logvar[j]);
        by_mu[j] = ScalarMath::fma(g, mu[j], by_mu[j]);
      } else if constexpr (has_z) {
        by_logvar[j] = grad_z[j] * noise[j] * d.sigma;
      }
      by_logvar[j] *= 0.5f;
    }
    if (p.arrays.grad_mu) store<Element>(p.arrays.grad_mu, piece, by_mu);
    if (p.arrays.grad_logvar) store<Element>(p.arrays.grad_logvar, piece, by_logvar);
  });
}

}  // namespace

const char* standard_normal(int64_t elements, const int64_t* state, float* array, Context& context) {
  if (elements == 0) return nullptr;
  const dim3 grid(static_cast<unsigned>(tiles_of(elements)));
  return gpu::launch<noise>(grid, dim3(kThreads), context.stream(), state, static_cast<void*>(array), elements,
                            are_aligned(array));
}

const char* sample_forward(const Reparameterization& p, const ReparameterizeForward& arrays, Context& context) {
  if (p.elements == 0 && p.kl != KlResult::total) return nullptr;
  return gpu::with_element(p.dtype, [&](auto element) {
    using Element = decltype(element);
    return visit_kl(p.kl, [&]<KlResult kl>() {
      const int64_t blocks = p.elements ? tiles_of(p.elements) : 1;
      Forward f{arrays, p.elements, 0.5 * p.kl_scale, {}, are_aligned(arrays.mu, arrays.logvar, arrays.z)};
      if (kl == KlResult::elements) f.aligned = f.aligned && are_aligned(arrays.kl);
      if (kl == KlResult::total) f.kl = begin_sum(blocks, arrays.kl, context);
      const char* error = gpu::launch<sample_and_kl<Element, kl>>(dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
                                                                  context.stream(), f);
      return error || kl != KlResult::total ? error : finish_sum<Element>(f.kl, blocks, context);
    });
  });
}

const char* sample_backward(const Reparameterization& p, const ReparameterizeBackward& arrays, Context& context) {
  if (p.elements == 0 || !(arrays.grad_mu || arrays.grad_logvar)) return nullptr;
  return gpu::with_element(p.dtype, [&](auto element) {
    using Element = decltype(element);
    return visit_kl(arrays.grad_kl ? p.kl : KlResult::absent, [&]<KlResult kl>() {
      Backward b{arrays, p.elements, p.kl_scale,
                 are_aligned(arrays.grad_z, arrays.mu, arrays.logvar, arrays.grad_mu, arrays.grad_logvar)};
      if (kl == KlResult::elements) b.aligned = b.aligned && are_aligned(arrays.grad_kl);
      const dim3 grid(static_cast<unsigned>(tiles_of(p.elements)));
      return arrays.grad_z
                 ? gpu::launch<sample_gradients<Element, true, kl>>(grid, dim3(kThreads), context.stream(), b)
                 : gpu::launch<sample_gradients<Element, false, kl>>(grid, dim3(kThreads), context.stream(), b);
    });
  });
}

}  // namespace fastvision::vae_cuda

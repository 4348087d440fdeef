// The ELBO and its gradients: in either one pass, in which some blocks take the reconstruction, the others the latents.
#include "vae/cuda/elbo.h"

#include <algorithm>

#include "vae/cuda/sums.cuh"
#include "vae/reconstruction.h"
#include "vae/visit.h"

namespace fastvision::vae_cuda {
namespace {

// Blocks of a grid: the first ones take the reconstruction.
struct Shares {
  int64_t recon_elements, latent_elements, recon_blocks, latent_blocks;
  bool recon_aligned, latent_aligned;

  int64_t blocks() const { return recon_blocks + latent_blocks; }
  __device__ bool is_latent() const { return blockIdx.x >= recon_blocks; }
  __device__ int64_t latent_tile() const { return blockIdx.x - recon_blocks; }
};

struct Forward {
  ElboLossForward arrays;
  Shares shares;
  double recon_scale, kl_scale;  // the latter of twice the KL
  float least;                   // twice the KL that counts at least, or 0
  GridSum loss;
};

template <Reconstruction reconstruction>
__device__ __forceinline__ float term(float recon, float target) {
  if constexpr (reconstruction == Reconstruction::mse) {
    const float difference = recon - target;
    return ScalarMath::fma(difference, difference, 0.0f);  // rounded before it is added, by every compiler
  } else {
    return reconstruction_term<ScalarMath, reconstruction>(recon, target);
  }
}

__device__ __forceinline__ bool is_probability(float x) {
  return x >= 0.0f && x <= 1.0f;
}

template <class Element, Reconstruction reconstruction>
__device__ float reconstruction_sum(const Forward& p) {
  float sum = 0.0f;
  for_each_piece<Element>(blockIdx.x, p.shares.recon_elements, p.shares.recon_aligned, [&](const Piece& piece) {
    constexpr int kCount = kWidth<Element>;
    float recon[kCount], target[kCount], terms[kCount];
    load<Element>(p.arrays.recon, piece, recon);
    load<Element>(p.arrays.target, piece, target);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if constexpr (reconstruction == Reconstruction::bce) {
        GPU_REQUIRE(is_probability(recon[j]),
                    "recon: expected values between 0 and 1 for reconstruction 'bce', got one outside");
        GPU_REQUIRE(is_probability(target[j]),
                    "target: expected values between 0 and 1 for reconstruction 'bce', got one outside");
      }
      terms[j] = j < piece.count ? term<reconstruction>(recon[j], target[j]) : 0.0f;
    }
    sum += pairwise_sum(terms);
  });
  return sum;
}

// Twice the KL, or of max(KL, free_bits).
template <class Element>
__device__ float kl_sum(const Forward& p) {
  float sum = 0.0f;
  const auto& shares = p.shares;
  for_each_piece<Element>(shares.latent_tile(), shares.latent_elements, shares.latent_aligned, [&](const Piece& piece) {
    constexpr int kCount = kWidth<Element>;
    float mu[kCount], logvar[kCount], terms[kCount];
    load<Element>(p.arrays.mu, piece, mu);
    load<Element>(p.arrays.logvar, piece, logvar);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      float twice = twice_kl<ScalarMath>(mu[j], logvar[j], deviation<ScalarMath>(logvar[j]));
      if (p.least > 0.0f) twice = detail::larger<ScalarMath>(p.least, twice);
      terms[j] = j < piece.count ? twice : 0.0f;
    }
    sum += pairwise_sum(terms);
  });
  return sum;
}

template <class Element, Reconstruction reconstruction>
__global__ void __launch_bounds__(kThreads) elbo(const Forward p) {
  const bool latent = p.shares.is_latent();
  const float sum = latent ? kl_sum<Element>(p) : reconstruction_sum<Element, reconstruction>(p);
  p.loss.add<Element>(sum, latent ? p.kl_scale : p.recon_scale);
}

struct Backward {
  ElboLossBackward arrays;
  Shares shares;
  double recon_scale, kl_scale;
  float least;
};

template <class Element, Reconstruction reconstruction>
__device__ void recon_gradient(const Backward& p) {
  const float scale = load_scaled<Element>(p.arrays.grad_loss, p.recon_scale);
  for_each_piece<Element>(blockIdx.x, p.shares.recon_elements, p.shares.recon_aligned, [&](const Piece& piece) {
    constexpr int kCount = kWidth<Element>;
    float recon[kCount], target[kCount], gradient[kCount];
    load<Element>(p.arrays.recon, piece, recon);
    load<Element>(p.arrays.target, piece, target);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      gradient[j] = reconstruction_gradient<ScalarMath, reconstruction>(recon[j], target[j]) * scale;
    }
    store<Element>(p.arrays.grad_recon, piece, gradient);
  });
}

template <class Element>
__device__ void latent_gradients(const Backward& p) {
  const float scale = load_scaled<Element>(p.arrays.grad_loss, p.kl_scale);
  const auto& shares = p.shares;
  for_each_piece<Element>(shares.latent_tile(), shares.latent_elements, shares.latent_aligned, [&](const Piece& piece) {
    constexpr int kCount = kWidth<Element>;
    float mu[kCount], logvar[kCount], by_mu[kCount], by_logvar[kCount];
    load<Element>(p.arrays.mu, piece, mu);
    load<Element>(p.arrays.logvar, piece, logvar);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const auto d = deviation<ScalarMath>(logvar[j]);
      // Like stock's clamp, a KL of NaN counts as one below.
      const bool counts = p.least == 0.0f || twice_kl<ScalarMath>(mu[j], logvar[j], d) >= p.least;
      const float g = counts ? scale : 0.0f;
      by_mu[j] = mu[j] * g;
      by_logvar[j] = variance_minus_one<ScalarMath>(d) * (0.5f * g);
    }
    if (p.arrays.grad_mu) store<Element>(p.arrays.grad_mu, piece, by_mu);
    if (p.arrays.grad_logvar) store<Element>(p.arrays.grad_logvar, piece, by_logvar);
  });
}

template <class Element, Reconstruction reconstruction>
__global__ void __launch_bounds__(kThreads) elbo_gradients(const Backward p) {
  if (p.shares.is_latent()) {
    latent_gradients<Element>(p);
  } else {
    recon_gradient<Element, reconstruction>(p);
  }
}

template <class Run>
const char* with_types(const ElboLoss& p, const Run& run) {
  return gpu::with_element(p.dtype, [&](auto element) {
    return visit_reconstruction(p.reconstruction, [&]<Reconstruction reconstruction>() {
      return run.template operator()<decltype(element), reconstruction>();
    });
  });
}

// As the kernels compare with it.
float twice_free_bits(const ElboLoss& p) {
  return 2 * static_cast<float>(p.free_bits);
}

}  // namespace

const char* elbo_forward(const ElboLoss& p, const ElboLossForward& arrays, Context& context) {
  // A sum of nothing too has a block: it may be multiplied by infinity.
  const Shares shares{p.recon_elements,
                      p.latent_elements,
                      std::max<int64_t>(1, tiles_of(p.recon_elements)),
                      std::max<int64_t>(1, tiles_of(p.latent_elements)),
                      are_aligned(arrays.recon, arrays.target),
                      are_aligned(arrays.mu, arrays.logvar)};
  const GridSum loss = begin_sum(shares.blocks(), arrays.loss, context);
  const Forward f{arrays, shares, p.reconstruction_scale, 0.5 * p.kl_scale, twice_free_bits(p), loss};
  const dim3 grid(static_cast<unsigned>(shares.blocks()));
  return with_types(p, [&]<class Element, Reconstruction reconstruction>() {
    const char* error = gpu::launch<elbo<Element, reconstruction>>(grid, dim3(kThreads), context.stream(), f);
    return error ? error : finish_sum<Element>(loss, shares.blocks(), context);
  });
}

const char* elbo_backward(const ElboLoss& p, const ElboLossBackward& arrays, Context& context) {
  const Shares shares{p.recon_elements,
                      p.latent_elements,
                      arrays.grad_recon ? tiles_of(p.recon_elements) : 0,
                      arrays.grad_mu || arrays.grad_logvar ? tiles_of(p.latent_elements) : 0,
                      are_aligned(arrays.recon, arrays.target, arrays.grad_recon),
                      are_aligned(arrays.mu, arrays.logvar, arrays.grad_mu, arrays.grad_logvar)};
  if (shares.blocks() == 0) return nullptr;
  const Backward b{arrays, shares, p.reconstruction_scale, p.kl_scale, twice_free_bits(p)};
  const dim3 grid(static_cast<unsigned>(shares.blocks()));
  return with_types(p, [&]<class Element, Reconstruction reconstruction>() {
    return gpu::launch<elbo_gradients<Element, reconstruction>>(grid, dim3(kThreads), context.stream(), b);
  });
}

}  // namespace fastvision::vae_cuda

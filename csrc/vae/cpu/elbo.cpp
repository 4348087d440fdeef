// The ELBO and its gradients: one pass over the reconstruction, one over the latents.
#include "vae/cpu/elbo.h"

#include <atomic>

#include "vae/cpu/blocks.h"
#include "vae/reconstruction.h"
#include "vae/visit.h"

namespace fastvision {
namespace {

// Zeros where there are no elements.
Vec first_of_step(const Vec& values, int64_t at, int64_t count) {
  return at + kLanes <= count ? values : Vec::set(Vec(0.f), values, std::max<int64_t>(0, count - at));
}

template <Reconstruction reconstruction>
double reconstruction_block(const float* recon, const float* target, int64_t count) {
  BlockSum sum;
  for (int64_t i = 0; i < count; i += kStep) {
    for_each_vector([&](int v) FASTVISION_INLINE {
      const int64_t at = i + v * kLanes;
      const Vec r = Vec::loadu(recon + at), t = Vec::loadu(target + at);
      if constexpr (reconstruction == Reconstruction::mse) {
        sum.add_square(v, r - t);
      } else {
        sum.add(v, first_of_step(reconstruction_term<VectorMath, reconstruction>(r, t), at, count));
      }
    });
  }
  return sum.total();
}

bool are_probabilities(const float* values, int64_t count) {
  int outside = 0;  // NaN, too
  for (int64_t i = 0; i < count; ++i) outside |= !((values[i] >= 0) & (values[i] <= 1));
  return !outside;
}

// Twice the sum of the KL, or of max(KL, free_bits).
double kl_block(const float* mu, const float* logvar, float free_bits, int64_t count) {
  BlockSum sum;
  const Vec least(2 * free_bits);
  for (int64_t i = 0; i < count; i += kStep) {
    for_each_vector([&](int v) FASTVISION_INLINE {
      const int64_t at = i + v * kLanes;
      const Vec l = Vec::loadu(logvar + at);
      Vec twice = twice_kl<VectorMath>(Vec::loadu(mu + at), l, deviation<VectorMath>(l));
      if (free_bits > 0) twice = detail::larger<VectorMath>(least, twice);
      sum.add(v, first_of_step(twice, at, count));
    });
  }
  return sum.total();
}

template <class T, Reconstruction reconstruction>
const char* forward(const ElboLoss& p, const ElboLossForward& arrays, Context& context) {
  const int64_t recon_blocks = blocks_of(p.recon_elements), latent_blocks = blocks_of(p.latent_elements);
  const auto allocate = [&](int64_t blocks) {
    return static_cast<double*>(context.allocate(sizeof(double) * std::max<int64_t>(1, blocks)));
  };
  double *recon_sums = allocate(recon_blocks), *latent_sums = allocate(latent_blocks);
  std::atomic<bool> valid_recon{true}, valid_target{true};
  for_each_block(p.recon_elements, context, [&](int64_t block, int64_t first, int64_t count) {
    Buffer recon_buffer, target_buffer;
    const float* recon = read_block<T>(arrays.recon, first, count, recon_buffer);
    const float* target = read_block<T>(arrays.target, first, count, target_buffer);
    if constexpr (reconstruction == Reconstruction::bce) {
      if (!are_probabilities(recon, count)) valid_recon = false;
      if (!are_probabilities(target, count)) valid_target = false;
    }
    recon_sums[block] = reconstruction_block<reconstruction>(recon, target, count);
  });
  if (!valid_recon) return "recon: expected values between 0 and 1 for reconstruction 'bce', got one outside";
  if (!valid_target) return "target: expected values between 0 and 1 for reconstruction 'bce', got one outside";
  for_each_block(p.latent_elements, context, [&](int64_t block, int64_t first, int64_t count) {
    Buffer mu, logvar;
    latent_sums[block] =
        kl_block(read_block<T>(arrays.mu, first, count, mu), read_block<T>(arrays.logvar, first, count, logvar),
                 static_cast<float>(p.free_bits), count);
  });
  store_one<T>(arrays.loss, p.reconstruction_scale * sum_of_blocks(recon_sums, recon_blocks) +
                                0.5 * p.kl_scale * sum_of_blocks(latent_sums, latent_blocks));
  return nullptr;
}

template <Reconstruction reconstruction>
void recon_gradient_block(const float* recon, const float* target, float scale, float* grad, int64_t count) {
  for (int64_t i = 0; i < count; i += kStep) {
    for_each_vector([&](int v) FASTVISION_INLINE {
      const int64_t at = i + v * kLanes;
      const Vec gradient =
          reconstruction_gradient<VectorMath, reconstruction>(Vec::loadu(recon + at), Vec::loadu(target + at));
      (gradient * Vec(scale)).store(grad + at);
    });
  }
}

void latent_gradient_block(const float* mu, const float* logvar, float free_bits, float scale, float* grad_mu,
                           float* grad_logvar, int64_t count) {
  const Vec least(2 * free_bits);
  for (int64_t i = 0; i < count; i += kStep) {
    for_each_vector([&](int v) FASTVISION_INLINE {
      const int64_t at = i + v * kLanes;
      const Vec m = Vec::loadu(mu + at), l = Vec::loadu(logvar + at);
      const auto d = deviation<VectorMath>(l);
      Vec by_mu = m * Vec(scale), by_logvar = variance_minus_one<VectorMath>(d) * Vec(0.5f * scale);
      if (free_bits > 0) {
        // A NaN is not above either. What is not finite gives NaN where it is multiplied by zero, as in stock.
        const Vec above = VectorMath::at_least(twice_kl<VectorMath>(m, l, d), least);
        by_mu = VectorMath::select(above, by_mu, by_mu * Vec(0.f));
        by_logvar = VectorMath::select(above, by_logvar, by_logvar * Vec(0.f));
      }
      if (grad_mu) by_mu.store(grad_mu + at);
      if (grad_logvar) by_logvar.store(grad_logvar + at);
    });
  }
}

template <class T, Reconstruction reconstruction>
void backward(const ElboLoss& p, const ElboLossBackward& arrays, Context& context) {
  const double incoming = load_one<T>(arrays.grad_loss);
  const float recon_scale = static_cast<float>(incoming * p.reconstruction_scale);
  const float kl_scale = static_cast<float>(incoming * p.kl_scale);
  if (arrays.grad_recon) {
    for_each_block(p.recon_elements, context, [&](int64_t, int64_t first, int64_t count) {
      Buffer recon, target, grad;
      recon_gradient_block<reconstruction>(read_block<T>(arrays.recon, first, count, recon),
                                           read_block<T>(arrays.target, first, count, target), recon_scale,
                                           begin_block<T>(arrays.grad_recon, first, count, grad), count);
      finish_block<T>(arrays.grad_recon, first, count, grad);
    });
  }
  if (!arrays.grad_mu && !arrays.grad_logvar) return;
  for_each_block(p.latent_elements, context, [&](int64_t, int64_t first, int64_t count) {
    Buffer mu, logvar, grad_mu, grad_logvar;
    latent_gradient_block(read_block<T>(arrays.mu, first, count, mu),
                          read_block<T>(arrays.logvar, first, count, logvar), static_cast<float>(p.free_bits), kl_scale,
                          begin_block<T>(arrays.grad_mu, first, count, grad_mu),
                          begin_block<T>(arrays.grad_logvar, first, count, grad_logvar), count);
    finish_block<T>(arrays.grad_mu, first, count, grad_mu);
    finish_block<T>(arrays.grad_logvar, first, count, grad_logvar);
  });
}

}  // namespace

const char* vae_elbo_forward(const ElboLoss& p, const ElboLossForward& arrays, Context& context) {
  return visit_dtype(p.dtype, [&]<class T>() {
    return visit_reconstruction(p.reconstruction, [&]<Reconstruction reconstruction>() {
      return forward<T, reconstruction>(p, arrays, context);
    });
  });
}

const char* vae_elbo_backward(const ElboLoss& p, const ElboLossBackward& arrays, Context& context) {
  visit_dtype(p.dtype, [&]<class T>() {
    visit_reconstruction(p.reconstruction,
                         [&]<Reconstruction reconstruction>() { backward<T, reconstruction>(p, arrays, context); });
  });
  return nullptr;
}

}  // namespace fastvision

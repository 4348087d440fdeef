// The problems that the vae family solves, as plain structs.
//
//   eps_i ~ N(0, 1), from a state of two 64-bit numbers, a seed and an offset (core/philox.h)
//   z_i = mu_i + eps_i exp(logvar_i / 2)
//   KL_i = -1/2 (1 + logvar_i - mu_i^2 - exp(logvar_i))
//
// (Kingma and Welling, "Auto-Encoding Variational Bayes", 2013.)
#pragma once

#include <cstdint>

#include "core/types.h"

namespace fastvision {

// What becomes of the KL: nothing, one number (scale * sum of KL_i), or every KL_i.
enum class KlResult : uint8_t { absent, total, elements };

struct Reparameterization {
  DType dtype = DType::f32;
  int64_t elements = 0;
  KlResult kl = KlResult::absent;
  double kl_scale = 1;  // of a total; infinite for a mean of nothing
};

enum class Reconstruction : uint8_t { mse, bce, bce_with_logits };

// loss = reconstruction_scale * sum of R_i + kl_scale * sum of max(KL_j, free_bits), with R_i
//
//   mse               (recon_i - target_i)^2
//   bce               -(target_i max(log(recon_i), -100) + (1 - target_i) max(log(1 - recon_i), -100))
//   bce_with_logits   max(recon_i, 0) - recon_i target_i + log(1 + exp(-|recon_i|))
//
// Where KL_j < free_bits it has no gradient. The gradient of bce is (recon - target) / max(recon (1 - recon), 1e-12).
struct ElboLoss {
  DType dtype = DType::f32;  // of all tensors
  Reconstruction reconstruction = Reconstruction::mse;
  int64_t recon_elements = 0, latent_elements = 0;
  double reconstruction_scale = 1, kl_scale = 1;
  double free_bits = 0;  // 0: KL_j counts as it is
};

}  // namespace fastvision

// The family's references: the same computation in stock PyTorch calls. They are the specification, the oracle of the
// tests, the baseline of the benchmarks, the fallback for what the kernels can't do, and the way to second derivatives.
#include "vae/reference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/binary_cross_entropy.h>
#include <ATen/ops/binary_cross_entropy_backward.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/mse_loss_backward.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "core/normal.h"

namespace fastvision {
namespace {

using at::Tensor;

Tensor kl_elements(const Tensor& mu, const Tensor& logvar) {
  return 1 + logvar - mu * mu - at::exp(logvar);
}

SampleAndKl reference_operator(const Tensor& mu, const Tensor& logvar, const Tensor& noise,
                               std::optional<std::string_view> reduction) {
  std::optional<Reduction> checked;
  if (reduction) checked = kl_reduction("fastvision::reparameterize_reference", *reduction);
  return reparameterize_reference(mu, logvar, noise, checked);
}

Tensor elbo_operator(const Tensor& recon, const Tensor& target, const Tensor& mu, const Tensor& logvar,
                     std::string_view reconstruction, double beta, double free_bits, std::string_view reduction) {
  return elbo_loss_reference(recon, target, mu, logvar, {reconstruction, beta, free_bits, reduction});
}

}  // namespace

SampleAndKl reparameterize_reference(const Tensor& mu, const Tensor& logvar, const Tensor& noise,
                                     std::optional<Reduction> reduction) {
  Tensor z = mu + noise * at::exp(0.5 * logvar);
  if (!reduction) return {z, at::empty({0}, z.options())};
  return {z, -0.5 * reduced(*reduction, kl_elements(mu, logvar))};
}

SampleAndKl reparameterize_backward_reference(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                              const Tensor& mu, const Tensor& logvar, const Tensor& noise,
                                              std::optional<Reduction> reduction, std::array<bool, 2> mask) {
  Tensor grad_mu = at::zeros_like(mu), grad_logvar = at::zeros_like(mu);
  if (grad_z && grad_z->defined()) {
    grad_mu = grad_mu + *grad_z;
    grad_logvar = grad_logvar + 0.5 * *grad_z * noise * at::exp(0.5 * logvar);
  }
  if (reduction && grad_kl && grad_kl->defined()) {
    const Tensor g = *grad_kl * scale_of(*reduction, mu);
    grad_mu = grad_mu + g * mu;
    grad_logvar = grad_logvar + 0.5 * g * (at::exp(logvar) - 1);
  }
  const Tensor unwanted = at::empty({0}, mu.options());
  return {mask[0] ? grad_mu.contiguous() : unwanted, mask[1] ? grad_logvar.contiguous() : unwanted};
}

Tensor elbo_loss_reference(const Tensor& recon, const Tensor& target, const Tensor& mu, const Tensor& logvar,
                           const ElboOptions& options) {
  const auto reduction = options.reduction == Reduction::mean ? at::Reduction::Mean : at::Reduction::Sum;
  Tensor loss;
  switch (options.reconstruction) {
    case Reconstruction::mse:
      loss = at::mse_loss(recon, target, reduction);
      break;
    case Reconstruction::bce:
      loss = at::binary_cross_entropy(recon, target, {}, reduction);
      break;
    case Reconstruction::bce_with_logits:
      loss = at::binary_cross_entropy_with_logits(recon, target, {}, {}, reduction);
      break;
  }
  if (options.reduction == Reduction::batchmean) loss = loss / recon.sym_size(0);
  Tensor kl = -0.5 * kl_elements(mu, logvar);
  if (options.free_bits > 0) kl = kl.clamp_min(options.free_bits);
  return loss + options.beta * reduced(options.reduction, kl);
}

std::tuple<Tensor, Tensor, Tensor> elbo_loss_backward_reference(const Tensor& grad_loss, const Tensor& recon,
                                                                const Tensor& target, const Tensor& mu,
                                                                const Tensor& logvar, const ElboOptions& options,
                                                                std::array<bool, 3> mask) {
  const Tensor unwanted = at::empty({0}, mu.options());
  Tensor grad_recon = unwanted, grad_mu = unwanted, grad_logvar = unwanted;
  if (mask[0]) {
    const Tensor by_term = grad_loss * scale_of(options.reduction, recon);
    switch (options.reconstruction) {
      case Reconstruction::mse:
        grad_recon = at::mse_loss_backward(by_term, recon, target, at::Reduction::Sum);
        break;
      case Reconstruction::bce:
        grad_recon = at::binary_cross_entropy_backward(by_term, recon, target, {}, at::Reduction::Sum);
        break;
      case Reconstruction::bce_with_logits:
        grad_recon = by_term * (at::sigmoid(recon) - target);
        break;
    }
  }
  Tensor by_kl = grad_loss * (options.beta * scale_of(options.reduction, mu));
  if (options.free_bits > 0) by_kl = by_kl * (-0.5 * kl_elements(mu, logvar) >= options.free_bits);
  if (mask[1]) grad_mu = by_kl * mu;
  if (mask[2]) grad_logvar = 0.5 * by_kl * (at::exp(logvar) - 1);
  return {grad_recon.contiguous(), grad_mu.contiguous(), grad_logvar.contiguous()};
}

Tensor standard_normal_reference(at::IntArrayRef size, const Tensor& state, at::ScalarType dtype) {
  const Tensor host_state = state.cpu();
  const auto* words = host_state.const_data_ptr<int64_t>();
  Tensor noise = at::empty(size, at::kFloat);
  float* data = noise.mutable_data_ptr<float>();
  const int64_t elements = noise.numel();
  for (int64_t i = 0; i < elements; i += 4) {
    float quad[4];
    normal_quad(static_cast<uint64_t>(words[0]), static_cast<uint64_t>(words[1]), static_cast<uint64_t>(i / 4), quad);
    std::copy_n(quad, std::min<int64_t>(4, elements - i), data + i);
  }
  return noise.to(state.device(), dtype);
}

TORCH_LIBRARY_IMPL(fastvision, CompositeImplicitAutograd, m) {
  m.impl("reparameterize_reference", &reference_operator);
  m.impl("elbo_loss_reference", &elbo_operator);
}

}  // namespace fastvision

#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "vae/options.h"

namespace fastvision {

using SampleAndKl = std::tuple<at::Tensor, at::Tensor>;

// z and KL from the noise; without a reduction KL is an empty tensor.
SampleAndKl reparameterize_reference(const at::Tensor& mu, const at::Tensor& logvar, const at::Tensor& noise,
                                     std::optional<Reduction> reduction);

// Its gradients by the formulas, each empty where it is not wanted. An incoming one that is not there is zero.
SampleAndKl reparameterize_backward_reference(const std::optional<at::Tensor>& grad_z,
                                              const std::optional<at::Tensor>& grad_kl, const at::Tensor& mu,
                                              const at::Tensor& logvar, const at::Tensor& noise,
                                              std::optional<Reduction> reduction, std::array<bool, 2> mask);

at::Tensor elbo_loss_reference(const at::Tensor& recon, const at::Tensor& target, const at::Tensor& mu,
                               const at::Tensor& logvar, const ElboOptions& options);

// Gradients of recon, mu and logvar by the formulas, each empty where it is not wanted.
std::tuple<at::Tensor, at::Tensor, at::Tensor> elbo_loss_backward_reference(
    const at::Tensor& grad_loss, const at::Tensor& recon, const at::Tensor& target, const at::Tensor& mu,
    const at::Tensor& logvar, const ElboOptions& options, std::array<bool, 3> mask);

// The stream's first numbers (core/philox.h), one after another.
at::Tensor standard_normal_reference(at::IntArrayRef size, const at::Tensor& state, at::ScalarType dtype);

}  // namespace fastvision

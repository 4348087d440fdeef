#pragma once

#include <ATen/core/Generator.h>

#include <tuple>

#include "vae/options.h"

namespace fastvision {

// Whether the library in use has kernels for tensors of this device and dtype.
bool vae_has_kernel(c10::Device device, at::ScalarType dtype);

// What reparameterize and reparameterize_kl come to on the CPU where the arguments are as kernels want them.
std::tuple<at::Tensor, at::Tensor> compute_sample(const at::Tensor& mu, const at::Tensor& logvar,
                                                  std::optional<std::string_view> reduction);

// The registered operators, through the dispatcher.
at::Tensor call_philox_state(const at::Tensor& like, const std::optional<at::Generator>& generator);
at::Tensor call_standard_normal(c10::SymIntArrayRef size, const at::Tensor& state, at::ScalarType dtype);

// Raise unless the arguments are what the composed operators (vae/compose.cpp) hand over: tensors of one dtype, shape
// and device, and a state.
void check_latents(const char* op, const at::Tensor& mu, const at::Tensor& logvar);
void check_state(const char* op, const at::Tensor& state, c10::Device device);

}  // namespace fastvision

// Shapes, dtypes and memory formats of the results without computing them: what torch.compile, torch.export and meta
// tensors ask. Sizes may be symbolic.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "vae/op.h"
#include "vae/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor philox_state(const Tensor& like, const std::optional<at::Generator>&) {
  return at::empty({2}, like.options().dtype(at::kLong));
}

Tensor standard_normal(c10::SymIntArrayRef size, const Tensor& state, std::optional<at::ScalarType> dtype) {
  return at::empty_symint(size,
                          state.options().dtype(dtype.value_or(at::typeMetaToScalarType(at::get_default_dtype()))));
}

SampleAndKl reparameterize_forward(const Tensor& mu, const Tensor& logvar, const Tensor& state,
                                   std::optional<std::string_view> reduction) {
  constexpr const char* kOp = "fastvision::reparameterize_forward";
  check_latents(kOp, mu, logvar);
  check_state(kOp, state, mu.device());
  const Tensor z = at::empty_symint(mu.sym_sizes(), mu.options(), mu.suggest_memory_format());
  if (!reduction) return {z, at::empty({0}, mu.options())};
  const bool one = kl_reduction(kOp, *reduction) != Reduction::none;
  return {z, one ? at::empty({}, mu.options()) : at::empty_symint(mu.sym_sizes(), mu.options())};
}

Tensor gradient(bool wanted, const Tensor& like) {
  return wanted ? at::empty_symint(like.sym_sizes(), like.options()) : at::empty({0}, like.options());
}

SampleAndKl reparameterize_backward(const OptionalTensor&, const OptionalTensor&, const Tensor& mu,
                                    const Tensor& logvar, const Tensor&, std::optional<std::string_view>,
                                    std::array<bool, 2> mask) {
  return {gradient(mask[0], mu), gradient(mask[1], logvar)};
}

Tensor elbo_loss_forward(const Tensor&, const Tensor&, const Tensor& mu, const Tensor&, std::string_view reconstruction,
                         double beta, double free_bits, std::string_view reduction) {
  const ElboOptions checked(reconstruction, beta, free_bits, reduction);
  return at::empty({}, mu.options());
}

std::tuple<Tensor, Tensor, Tensor> elbo_loss_backward(const Tensor&, const Tensor& recon, const Tensor&,
                                                      const Tensor& mu, const Tensor& logvar, std::string_view, double,
                                                      double, std::string_view, std::array<bool, 3> mask) {
  return {gradient(mask[0], recon), gradient(mask[1], mu), gradient(mask[2], logvar)};
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, Meta, m) {
  m.impl("philox_state", &philox_state);
  m.impl("standard_normal", &standard_normal);
  m.impl("reparameterize_forward", &reparameterize_forward);
  m.impl("reparameterize_backward", &reparameterize_backward);
  m.impl("elbo_loss_forward", &elbo_loss_forward);
  m.impl("elbo_loss_backward", &elbo_loss_backward);
}

}  // namespace fastvision

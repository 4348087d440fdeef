// The operators that users call. They bring the arguments into one dtype and shape by differentiable stock operators
// and call those that kernels are written for. Being composite, they are taken apart by torch.compile.
#include <ATen/ExpandUtils.h>
#include <ATen/native/TypeProperties.h>
#include <ATen/ops/broadcast_tensors.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/result_type.h>
#include <torch/library.h>

#include "core/autograd.h"
#include "core/direct.h"
#include "core/operator_handle.h"
#include "core/symbolic.h"
#include "vae/op.h"
#include "vae/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalGenerator = std::optional<at::Generator>;

// A tensor without dimensions may lie on the CPU, as in stock arithmetic.
void to_device_of(const char* op, const char* names, Tensor& a, Tensor& b) {
  if (a.device() == b.device()) return;
  if (b.dim() == 0 && b.is_cpu()) {
    b = b.to(a.device());
  } else if (a.dim() == 0 && a.is_cpu()) {
    a = a.to(b.device());
  } else {
    TORCH_CHECK(false, op, ": ", names, ": expected tensors on one device, got ", a.device(), " and ", b.device());
  }
}

void broadcast(const char* op, const char* names, Tensor& a, Tensor& b) {
  if (!is_symbolic(a) && !is_symbolic(b)) {
    if (a.sizes() == b.sizes()) return;
    TORCH_CHECK(at::are_expandable(a.sizes(), b.sizes()), op, ": ", names, ": expected shapes that broadcast, got ",
                a.sizes(), " and ", b.sizes());
  }
  const auto both = at::broadcast_tensors({a, b});
  a = both[0];
  b = both[1];
}

at::ScalarType floating(at::ScalarType type) {
  return at::isIntegralType(type, /*includeBool=*/true) ? at::typeMetaToScalarType(at::get_default_dtype()) : type;
}

SampleAndKl call_forward(const Tensor& mu, const Tensor& logvar, std::optional<std::string_view> reduction,
                         const OptionalGenerator& generator) {
  static const auto forward =
      find_operator<SampleAndKl(const Tensor&, const Tensor&, const Tensor&, std::optional<std::string_view>)>(
          "fastvision::reparameterize_forward");
  return forward.call(mu, logvar, call_philox_state(mu, generator), reduction);
}

SampleAndKl sample(const char* op, Tensor mu, Tensor logvar, std::optional<std::string_view> reduction,
                   const OptionalGenerator& generator) {
  to_device_of(op, "mu and logvar", mu, logvar);
  broadcast(op, "mu and logvar", mu, logvar);
  const at::ScalarType dtype = floating(at::result_type(mu, logvar));
  mu = mu.to(dtype);
  logvar = logvar.to(dtype);
  if (reduction) check_has_batch(op, "mu", kl_reduction(op, *reduction), mu);
  TORCH_CHECK(!generator || !generator->defined() || mu.is_meta() || generator->device().type() == mu.device().type(),
              op, ": generator: expected one of device ", mu.device().type(), ", mu's, got one of ",
              generator->device());
  // What our noise has no kernels for, and torch.func's transforms, which have rules of their own for random numbers.
  const bool known = mu.is_cpu() || mu.is_cuda() || mu.is_meta();
  if (inside_functional_transform() || !known || !at::isFloatingType(dtype)) {
    const Tensor noise = at::randn_symint(mu.sym_sizes(), generator, mu.options());
    std::optional<Reduction> checked;
    if (reduction) checked = kl_reduction(op, *reduction);
    return reparameterize_reference(mu, logvar, noise, checked);
  }
  return call_forward(mu, logvar, reduction, generator);
}

Tensor reparameterize(const Tensor& mu, const Tensor& logvar, const OptionalGenerator& generator) {
  return std::get<0>(sample("fastvision::reparameterize", mu, logvar, std::nullopt, generator));
}

SampleAndKl reparameterize_kl(const Tensor& mu, const Tensor& logvar, std::string_view reduction,
                              const OptionalGenerator& generator) {
  return sample("fastvision::reparameterize_kl", mu, logvar, reduction, generator);
}

Tensor elbo_loss(const Tensor& recon, const Tensor& target, const Tensor& mu, const Tensor& logvar,
                 std::string_view reconstruction, double beta, double free_bits, std::string_view reduction) {
  constexpr const char* kOp = "fastvision::elbo_loss";
  const ElboOptions options(reconstruction, beta, free_bits, reduction);
  Tensor r = recon, t = target, m = mu, v = logvar;
  to_device_of(kOp, "recon and target", r, t);
  to_device_of(kOp, "mu and logvar", m, v);
  to_device_of(kOp, "recon and mu", r, m);
  to_device_of(kOp, "target and logvar", t, v);
  // Stock's binary cross-entropies do not broadcast.
  TORCH_CHECK_VALUE(options.reconstruction == Reconstruction::mse || r.sym_sizes().equals(t.sym_sizes()), kOp,
                    ": recon and target: expected equal shapes for reconstruction '", reconstruction, "', got ",
                    r.sym_sizes(), " and ", t.sym_sizes());
  broadcast(kOp, "recon and target", r, t);
  broadcast(kOp, "mu and logvar", m, v);
  check_has_batch(kOp, "recon", options.reduction, r);
  check_has_batch(kOp, "mu", options.reduction, m);
  // Tensors without dimensions, which count less for result_type, do so among all four.
  at::native::ResultTypeState state{};
  for (const Tensor* tensor : {&r, &t, &m, &v}) state = at::native::update_result_type_state(*tensor, state);
  const at::ScalarType dtype = floating(at::native::result_type(state));
  for (Tensor* tensor : {&r, &t, &m, &v}) *tensor = tensor->to(dtype);
  if (inside_functional_transform() || !at::isFloatingType(dtype)) return elbo_loss_reference(r, t, m, v, options);
  static const auto forward =
      find_operator<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::string_view, double, double,
                           std::string_view)>("fastvision::elbo_loss_forward");
  return forward.call(r, t, m, v, reconstruction, beta, free_bits, reduction);
}

// Whether there is nothing to bring into line or to refuse.
bool are_plain(const Tensor& mu, const Tensor& logvar, const OptionalGenerator& generator) {
  return mu.scalar_type() == logvar.scalar_type() && at::isFloatingType(mu.scalar_type()) && mu.dim() > 0 &&
         mu.sizes() == logvar.sizes() && !(generator && generator->defined());
}

DirectKernel direct_sample(at::ArrayRef<c10::IValue> options) {
  return [generator = options.at(0).toOptional<at::Generator>()](c10::Stack& stack) {
    const Tensor mu = stack[0].toTensor(), logvar = stack[1].toTensor();
    set_results(stack, are_plain(mu, logvar, generator) ? std::get<0>(compute_sample(mu, logvar, std::nullopt))
                                                        : reparameterize(mu, logvar, generator));
  };
}

DirectKernel direct_sample_and_kl(at::ArrayRef<c10::IValue> options) {
  return [reduction = options.at(0).toStringRef(),
          generator = options.at(1).toOptional<at::Generator>()](c10::Stack& stack) {
    const Tensor mu = stack[0].toTensor(), logvar = stack[1].toTensor();
    set_results(stack, are_plain(mu, logvar, generator) ? compute_sample(mu, logvar, reduction)
                                                        : reparameterize_kl(mu, logvar, reduction, generator));
  };
}

const bool kHaveDirectKernels = add_direct_kernel("fastvision::reparameterize", &direct_sample) &&
                                add_direct_kernel("fastvision::reparameterize_kl", &direct_sample_and_kl);

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, CompositeImplicitAutograd, m) {
  m.impl("reparameterize", &reparameterize);
  m.impl("reparameterize_kl", &reparameterize_kl);
  m.impl("elbo_loss", &elbo_loss);
}

}  // namespace fastvision

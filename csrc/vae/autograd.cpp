// Gradients. In C++, since a Python autograd.Function costs tens of microseconds a call.
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "core/autograd.h"
#include "core/operator_handle.h"
#include "vae/op.h"
#include "vae/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionalName = std::optional<std::string_view>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The gradients, of those arguments that need them, as a differentiable function of the results' gradients.
variable_list differentiable(const variable_list& results, const variable_list& gradients,
                             const variable_list& arguments, const AutogradContext& context) {
  variable_list outputs, incoming, wanted;
  for (size_t i = 0; i < results.size(); ++i) {
    if (!gradients[i].defined()) continue;
    outputs.push_back(results[i]);
    incoming.push_back(gradients[i]);
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (context.needs_input_grad(i)) wanted.push_back(arguments[i]);
  }
  const auto computed = torch::autograd::grad(outputs, wanted, incoming, /*retain_graph=*/true, /*create_graph=*/true,
                                              /*allow_unused=*/true);
  variable_list found(arguments.size());
  for (size_t i = 0, next = 0; i < arguments.size(); ++i) {
    if (context.needs_input_grad(i)) found[i] = computed[next++];
  }
  return found;
}

SampleAndKl call_forward(const Tensor& mu, const Tensor& logvar, const Tensor& state, OptionalName reduction) {
  static const auto op = find_operator<decltype(call_forward)>("fastvision::reparameterize_forward");
  return op.call(mu, logvar, state, reduction);
}

std::optional<Reduction> checked(OptionalName name) {
  if (!name) return std::nullopt;
  return kl_reduction("fastvision::reparameterize_forward", *name);
}

SampleAndKl sample_reference(const Tensor& mu, const Tensor& logvar, const Tensor& state, OptionalName reduction) {
  const Tensor noise = call_standard_normal(mu.sym_sizes(), state, mu.scalar_type());
  return reparameterize_reference(mu, logvar, noise, checked(reduction));
}

class ReparameterizeFunction : public torch::autograd::Function<ReparameterizeFunction> {
 public:
  static variable_list forward(AutogradContext* context, const Tensor& mu, const Tensor& logvar, const Tensor& state,
                               OptionalName reduction) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [z, kl] = call_forward(mu, logvar, state, reduction);
    context->save_for_backward({mu, logvar, state});
    if (reduction) context->saved_data["reduction"] = std::string(*reduction);
    context->set_materialize_grads(false);
    if (!reduction) context->mark_non_differentiable({kl});
    return {z, kl};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &mu = saved[0], &logvar = saved[1], &state = saved[2];
    const auto stored = context->saved_data.find("reduction");
    const bool has_kl = stored != context->saved_data.end();
    const OptionalName reduction = has_kl ? OptionalName(stored->second.toStringView()) : std::nullopt;
    if (!has_kl) gradients[1] = Tensor();
    if (!gradients[0].defined() && !gradients[1].defined()) return variable_list(4);
    variable_list found;
    if (at::GradMode::is_enabled()) {
      const auto [z, kl] = sample_reference(mu, logvar, state, reduction);
      found = differentiable({z, kl}, gradients, {mu, logvar}, *context);
    } else {
      static const auto op =
          find_operator<SampleAndKl(const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&,
                                    const Tensor&, OptionalName, std::array<bool, 2>)>(
              "fastvision::reparameterize_backward");
      const std::array<bool, 2> mask{context->needs_input_grad(0), context->needs_input_grad(1)};
      const auto [grad_mu, grad_logvar] =
          op.call(optional(gradients[0]), optional(gradients[1]), mu, logvar, state, reduction, mask);
      found = {mask[0] ? grad_mu : Tensor(), mask[1] ? grad_logvar : Tensor()};
    }
    found.resize(4);  // forward's arguments
    return found;
  }
};

SampleAndKl reparameterize_autograd(const Tensor& mu, const Tensor& logvar, const Tensor& state,
                                    OptionalName reduction) {
  if (inside_functional_transform() || any_of({&mu, &logvar}, &has_forward_gradient)) {
    return sample_reference(mu, logvar, state, reduction);
  }
  if (!at::GradMode::is_enabled() || !any_of({&mu, &logvar}, &requires_grad)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_forward(mu, logvar, state, reduction);
  }
  if (!vae_has_kernel(mu.device(), mu.scalar_type())) return sample_reference(mu, logvar, state, reduction);
  const auto results = ReparameterizeFunction::apply(mu, logvar, state, reduction);
  return {results[0], results[1]};
}

Tensor call_elbo(const Tensor& recon, const Tensor& target, const Tensor& mu, const Tensor& logvar,
                 std::string_view reconstruction, double beta, double free_bits, std::string_view reduction) {
  static const auto op = find_operator<decltype(call_elbo)>("fastvision::elbo_loss_forward");
  return op.call(recon, target, mu, logvar, reconstruction, beta, free_bits, reduction);
}

class ElboLossFunction : public torch::autograd::Function<ElboLossFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& recon, const Tensor& mu, const Tensor& logvar,
                        const Tensor& target, std::string_view reconstruction, double beta, double free_bits,
                        std::string_view reduction) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({recon, mu, logvar, target});
    context->saved_data["reconstruction"] = std::string(reconstruction);
    context->saved_data["beta"] = beta;
    context->saved_data["free_bits"] = free_bits;
    context->saved_data["reduction"] = std::string(reduction);
    return call_elbo(recon, target, mu, logvar, reconstruction, beta, free_bits, reduction);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &recon = saved[0], &mu = saved[1], &logvar = saved[2], &target = saved[3];
    const auto reconstruction = context->saved_data["reconstruction"].toStringView();
    const auto reduction = context->saved_data["reduction"].toStringView();
    const double beta = context->saved_data["beta"].toDouble();
    const double free_bits = context->saved_data["free_bits"].toDouble();
    variable_list found;
    if (at::GradMode::is_enabled()) {
      const Tensor loss = elbo_loss_reference(recon, target, mu, logvar, {reconstruction, beta, free_bits, reduction});
      found = differentiable({loss}, gradients, {recon, mu, logvar}, *context);
    } else {
      static const auto op = find_operator<std::tuple<Tensor, Tensor, Tensor>(
          const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::string_view, double, double,
          std::string_view, std::array<bool, 3>)>("fastvision::elbo_loss_backward");
      const std::array<bool, 3> mask{context->needs_input_grad(0), context->needs_input_grad(1),
                                     context->needs_input_grad(2)};
      const auto [grad_recon, grad_mu, grad_logvar] =
          op.call(gradients[0], recon, target, mu, logvar, reconstruction, beta, free_bits, reduction, mask);
      found = {mask[0] ? grad_recon : Tensor(), mask[1] ? grad_mu : Tensor(), mask[2] ? grad_logvar : Tensor()};
    }
    found.resize(8);  // forward's arguments
    return found;
  }
};

Tensor elbo_loss_autograd(const Tensor& recon, const Tensor& target, const Tensor& mu, const Tensor& logvar,
                          std::string_view reconstruction, double beta, double free_bits, std::string_view reduction) {
  const std::initializer_list<const Tensor*> tensors{&recon, &target, &mu, &logvar};
  const bool differentiated = at::GradMode::is_enabled() && any_of(tensors, &requires_grad);
  // A target is data: its gradient is the reference's.
  if (inside_functional_transform() || any_of(tensors, &has_forward_gradient) ||
      (differentiated && (requires_grad(target) || !vae_has_kernel(mu.device(), mu.scalar_type())))) {
    return elbo_loss_reference(recon, target, mu, logvar, {reconstruction, beta, free_bits, reduction});
  }
  if (differentiated) {
    return ElboLossFunction::apply(recon, mu, logvar, target, reconstruction, beta, free_bits, reduction);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_elbo(recon, target, mu, logvar, reconstruction, beta, free_bits, reduction);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, Autograd, m) {
  m.impl("reparameterize_forward", &reparameterize_autograd);
  m.impl("elbo_loss_forward", &elbo_loss_autograd);
}

}  // namespace fastvision

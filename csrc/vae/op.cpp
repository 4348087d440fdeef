// The operators on CPU and CUDA tensors: check, describe the problem, allocate, call the kernel library.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <limits>
#include <mutex>

#include "core/memory.h"
#include "core/operator_handle.h"
#include "core/torch_context.h"
#include "core/torch_kernels.h"
#include "vae/kernels.h"
#include "vae/op.h"
#include "vae/reference.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

const VaeKernels* kernels_on(c10::Device device, at::ScalarType dtype) {
  return kernel_dtype(dtype) ? kernels_of(device, &KernelLibrary::vae) : nullptr;
}

void check_status(const char* op, const char* error) {
  TORCH_CHECK(!error, op, ": ", error);
}

Tensor dense(at::IntArrayRef sizes, const at::TensorOptions& options) {
  return empty_result(sizes, options, at::MemoryFormat::Contiguous);
}

void draw_words(const std::optional<at::Generator>& generator, int64_t* words) {
  auto* source = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  const std::lock_guard<std::mutex> lock(source->mutex_);
  words[0] = static_cast<int64_t>(source->random64());
  words[1] = static_cast<int64_t>(source->random64());
}

// One draw from the generator; 128 bits, so that two calls never share numbers. On CUDA an operator of stock, which
// knows how to draw while a graph is captured.
Tensor philox_state(const Tensor& like, const std::optional<at::Generator>& generator) {
  const auto options = at::device(like.device()).dtype(at::kLong);
  if (!like.is_cpu()) {
    return at::empty({2}, options).random_(std::numeric_limits<int64_t>::min(), std::nullopt, generator);
  }
  Tensor state = at::empty({2}, options);
  draw_words(generator, state.mutable_data_ptr<int64_t>());
  return state;
}

Tensor standard_normal(at::IntArrayRef size, const Tensor& state, std::optional<at::ScalarType> dtype) {
  constexpr const char* kOp = "fastvision::standard_normal";
  check_state(kOp, state, state.device());
  const at::ScalarType type = dtype.value_or(at::typeMetaToScalarType(at::get_default_dtype()));
  TORCH_CHECK(at::isFloatingType(type), kOp, ": dtype: expected a floating-point type, got ", type);
  const VaeKernels* kernels = kernels_on(state.device(), at::kFloat);
  if (!kernels) return standard_normal_reference(size, state, type);
  const c10::DeviceGuard guard(state.device());
  const Tensor noise = dense(size, state.options().dtype(at::kFloat)), words = state.contiguous();
  TorchContext context(state.device());
  check_status(kOp, kernels->standard_normal(noise.numel(), words.const_data_ptr<int64_t>(),
                                             noise.mutable_data_ptr<float>(), context));
  return noise.to(type);
}

Reparameterization describe(const Tensor& mu, const std::optional<Reduction>& reduction) {
  Reparameterization p;
  p.dtype = *kernel_dtype(mu.scalar_type());
  p.elements = mu.numel();
  if (reduction) {
    p.kl = *reduction == Reduction::none ? KlResult::elements : KlResult::total;
    p.kl_scale = scale_of(*reduction, mu);
  }
  return p;
}

std::optional<Reduction> checked_reduction(const char* op, std::optional<std::string_view> name, const Tensor& mu) {
  if (!name) return std::nullopt;
  const Reduction reduction = kl_reduction(op, *name);
  check_has_batch(op, "mu", reduction, mu);
  return reduction;
}

std::vector<int64_t> kl_sizes(const Tensor& mu, const std::optional<Reduction>& reduction) {
  if (!reduction) return {0};
  return *reduction == Reduction::none ? mu.sizes().vec() : std::vector<int64_t>{};
}

SampleAndKl run_forward(const Tensor& mu, const Tensor& logvar, const int64_t* words,
                        const std::optional<Reduction>& reduction) {
  const c10::DeviceGuard guard(mu.device());
  const Reparameterization p = describe(mu, reduction);
  const auto m = mu.expect_contiguous(), v = logvar.expect_contiguous();
  Tensor z = dense(mu.sizes(), mu.options());
  Tensor kl = dense(kl_sizes(mu, reduction), mu.options());
  TorchContext context(mu.device());
  check_status("fastvision::reparameterize_forward",
               kernels_on(mu.device(), mu.scalar_type())
                   ->forward(p,
                             {m->const_data_ptr(), v->const_data_ptr(), words, z.mutable_data_ptr(),
                              reduction ? kl.mutable_data_ptr() : nullptr},
                             context));
  return {z.contiguous(mu.suggest_memory_format()), kl};
}

SampleAndKl reparameterize_forward(const Tensor& mu, const Tensor& logvar, const Tensor& state,
                                   std::optional<std::string_view> reduction_name) {
  constexpr const char* kOp = "fastvision::reparameterize_forward";
  check_latents(kOp, mu, logvar);
  check_state(kOp, state, mu.device());
  const auto reduction = checked_reduction(kOp, reduction_name, mu);
  const at::MemoryFormat format = mu.suggest_memory_format();
  if (!vae_has_kernel(mu.device(), mu.scalar_type())) {
    const Tensor noise = call_standard_normal(mu.sym_sizes(), state, mu.scalar_type());
    const auto [z, kl] = reparameterize_reference(mu, logvar, noise, reduction);
    return {z.contiguous(format), kl.contiguous()};
  }
  return run_forward(mu, logvar, state.expect_contiguous()->const_data_ptr<int64_t>(), reduction);
}

void check_shaped(const char* op, const char* name, const Tensor& tensor, at::IntArrayRef sizes, const Tensor& like) {
  TORCH_CHECK(tensor.sizes() == sizes && tensor.scalar_type() == like.scalar_type() && tensor.device() == like.device(),
              op, ": ", name, ": expected shape ", sizes, " and dtype ", like.scalar_type(), " on ", like.device(),
              ", got ", tensor.sizes(), " ", tensor.scalar_type(), " on ", tensor.device());
}

// The tensors that a backward operator gives, or empty ones for those that are not wanted.
Tensor gradient(bool wanted, const Tensor& like) {
  return wanted ? dense(like.sizes(), like.options()) : at::empty({0}, like.options());
}

void* data(bool wanted, const Tensor& tensor) {
  return wanted ? tensor.mutable_data_ptr() : nullptr;
}

SampleAndKl reparameterize_backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& mu,
                                    const Tensor& logvar, const Tensor& state,
                                    std::optional<std::string_view> reduction_name, std::array<bool, 2> mask) {
  constexpr const char* kOp = "fastvision::reparameterize_backward";
  check_latents(kOp, mu, logvar);
  check_state(kOp, state, mu.device());
  const auto reduction = checked_reduction(kOp, reduction_name, mu);
  const auto checked = [&](const char* name, const OptionalTensor& tensor, at::IntArrayRef sizes) {
    if (!tensor || !tensor->defined()) return OptionalTensor();
    check_shaped(kOp, name, *tensor, sizes, mu);
    return OptionalTensor(tensor->contiguous());
  };
  const OptionalTensor by_z = checked("grad_z", grad_z, mu.sizes()),
                       by_kl = reduction ? checked("grad_kl", grad_kl, kl_sizes(mu, reduction)) : std::nullopt;
  // What began with kernels ends with kernels: fastvision.backends.enabled does not come between forward and backward.
  const VaeKernels* kernels = kernels_on(mu.device(), mu.scalar_type());
  if (!kernels) {
    const Tensor noise = call_standard_normal(mu.sym_sizes(), state, mu.scalar_type());
    return reparameterize_backward_reference(by_z, by_kl, mu, logvar, noise, reduction, mask);
  }
  const c10::DeviceGuard guard(mu.device());
  const auto m = mu.expect_contiguous(), v = logvar.expect_contiguous(), words = state.expect_contiguous();
  const Tensor grad_mu = gradient(mask[0], mu), grad_logvar = gradient(mask[1], logvar);
  const ReparameterizeBackward arrays{.grad_z = by_z ? by_z->const_data_ptr() : nullptr,
                                      .grad_kl = by_kl ? by_kl->const_data_ptr() : nullptr,
                                      .mu = m->const_data_ptr(),
                                      .logvar = v->const_data_ptr(),
                                      .state = words->const_data_ptr<int64_t>(),
                                      .grad_mu = data(mask[0], grad_mu),
                                      .grad_logvar = data(mask[1], grad_logvar)};
  TorchContext context(mu.device());
  check_status(kOp, kernels->backward(describe(mu, reduction), arrays, context));
  return {grad_mu, grad_logvar};
}

ElboLoss describe(const ElboOptions& options, const Tensor& recon, const Tensor& mu) {
  ElboLoss p;
  p.dtype = *kernel_dtype(recon.scalar_type());
  p.reconstruction = options.reconstruction;
  p.recon_elements = recon.numel();
  p.latent_elements = mu.numel();
  p.reconstruction_scale = scale_of(options.reduction, recon);
  p.kl_scale = options.beta * scale_of(options.reduction, mu);
  p.free_bits = options.free_bits;
  return p;
}

void check_elbo(const char* op, const ElboOptions& options, const Tensor& recon, const Tensor& target, const Tensor& mu,
                const Tensor& logvar) {
  check_latents(op, mu, logvar);
  TORCH_CHECK(recon.sizes() == target.sizes() && recon.scalar_type() == target.scalar_type() &&
                  recon.scalar_type() == mu.scalar_type() && recon.device() == target.device() &&
                  recon.device() == mu.device(),
              op, ": recon and target: expected one shape, and dtype ", mu.scalar_type(), " on ", mu.device(),
              ", mu's, got ", recon.sizes(), " ", recon.scalar_type(), " on ", recon.device(), " and ", target.sizes(),
              " ", target.scalar_type(), " on ", target.device());
  check_has_batch(op, "recon", options.reduction, recon);
  check_has_batch(op, "mu", options.reduction, mu);
}

Tensor elbo_loss_forward(const Tensor& recon, const Tensor& target, const Tensor& mu, const Tensor& logvar,
                         std::string_view reconstruction, double beta, double free_bits, std::string_view reduction) {
  constexpr const char* kOp = "fastvision::elbo_loss";
  const ElboOptions options(reconstruction, beta, free_bits, reduction);
  check_elbo(kOp, options, recon, target, mu, logvar);
  if (!vae_has_kernel(mu.device(), mu.scalar_type())) return elbo_loss_reference(recon, target, mu, logvar, options);
  const c10::DeviceGuard guard(mu.device());
  const auto r = recon.expect_contiguous(), t = target.expect_contiguous(), m = mu.expect_contiguous(),
             v = logvar.expect_contiguous();
  Tensor loss = at::empty({}, mu.options());
  TorchContext context(mu.device());
  check_status(kOp, kernels_on(mu.device(), mu.scalar_type())
                        ->elbo_forward(describe(options, recon, mu),
                                       {r->const_data_ptr(), t->const_data_ptr(), m->const_data_ptr(),
                                        v->const_data_ptr(), loss.mutable_data_ptr()},
                                       context));
  return loss;
}

std::tuple<Tensor, Tensor, Tensor> elbo_loss_backward(const Tensor& grad_loss, const Tensor& recon,
                                                      const Tensor& target, const Tensor& mu, const Tensor& logvar,
                                                      std::string_view reconstruction, double beta, double free_bits,
                                                      std::string_view reduction, std::array<bool, 3> mask) {
  constexpr const char* kOp = "fastvision::elbo_loss_backward";
  const ElboOptions options(reconstruction, beta, free_bits, reduction);
  check_elbo(kOp, options, recon, target, mu, logvar);
  check_shaped(kOp, "grad_loss", grad_loss, {}, mu);
  const VaeKernels* kernels = kernels_on(mu.device(), mu.scalar_type());
  if (!kernels) return elbo_loss_backward_reference(grad_loss, recon, target, mu, logvar, options, mask);
  const c10::DeviceGuard guard(mu.device());
  const auto r = recon.expect_contiguous(), t = target.expect_contiguous(), m = mu.expect_contiguous(),
             v = logvar.expect_contiguous();
  const Tensor grad_recon = gradient(mask[0], recon), grad_mu = gradient(mask[1], mu),
               grad_logvar = gradient(mask[2], logvar);
  TorchContext context(mu.device());
  check_status(kOp, kernels->elbo_backward(describe(options, recon, mu),
                                           {grad_loss.const_data_ptr(), r->const_data_ptr(), t->const_data_ptr(),
                                            m->const_data_ptr(), v->const_data_ptr(), data(mask[0], grad_recon),
                                            data(mask[1], grad_mu), data(mask[2], grad_logvar)},
                                           context));
  return {grad_recon, grad_mu, grad_logvar};
}

void register_operators(torch::Library& m) {
  m.impl("philox_state", &philox_state);
  m.impl("standard_normal", &standard_normal);
  m.impl("reparameterize_forward", &reparameterize_forward);
  m.impl("reparameterize_backward", &reparameterize_backward);
  m.impl("elbo_loss_forward", &elbo_loss_forward);
  m.impl("elbo_loss_backward", &elbo_loss_backward);
}

}  // namespace

bool vae_has_kernel(c10::Device device, at::ScalarType dtype) {
  return kernels_enabled() && kernels_on(device, dtype);
}

SampleAndKl compute_sample(const Tensor& mu, const Tensor& logvar, std::optional<std::string_view> reduction) {
  if (!vae_has_kernel(mu.device(), mu.scalar_type())) {
    return reparameterize_forward(mu, logvar, philox_state(mu, std::nullopt), reduction);
  }
  int64_t words[2];
  draw_words(std::nullopt, words);
  return run_forward(mu, logvar, words, checked_reduction("fastvision::reparameterize_kl", reduction, mu));
}

Tensor call_philox_state(const Tensor& like, const std::optional<at::Generator>& generator) {
  static const auto op = find_operator<decltype(philox_state)>("fastvision::philox_state");
  return op.call(like, generator);
}

Tensor call_standard_normal(c10::SymIntArrayRef size, const Tensor& state, at::ScalarType dtype) {
  static const auto op = find_operator<Tensor(c10::SymIntArrayRef, const Tensor&, std::optional<at::ScalarType>)>(
      "fastvision::standard_normal");
  return op.call(size, state, dtype);
}

void check_latents(const char* op, const Tensor& mu, const Tensor& logvar) {
  TORCH_CHECK(mu.sym_sizes().equals(logvar.sym_sizes()) && mu.scalar_type() == logvar.scalar_type() &&
                  mu.device() == logvar.device() && at::isFloatingType(mu.scalar_type()),
              op, ": mu and logvar: expected one shape, device and floating-point dtype, got ", mu.sym_sizes(), " ",
              mu.scalar_type(), " on ", mu.device(), " and ", logvar.sym_sizes(), " ", logvar.scalar_type(), " on ",
              logvar.device());
}

void check_state(const char* op, const Tensor& state, c10::Device device) {
  TORCH_CHECK(
      state.scalar_type() == at::kLong && state.dim() == 1 && state.sym_size(0) == 2 && state.device() == device, op,
      ": state: expected int64 of shape [2] on ", device, ", got ", state.scalar_type(), " of shape ",
      state.sym_sizes(), " on ", state.device());
}

TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  register_operators(m);
}

TORCH_LIBRARY_IMPL(fastvision, CUDA, m) {
  register_operators(m);
}

}  // namespace fastvision

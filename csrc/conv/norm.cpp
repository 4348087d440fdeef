// Convolution and batch normalisation with given statistics: a convolution with other weights and another bias,
//
//     norm(w * x + b) = (s w) * x + s (b - mean) + beta,  s = gamma / sqrt(var + eps)
//
// (Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 2). The kernel multiplies by s while it packs weights.
#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rsqrt.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>

#include "conv/op.h"
#include "conv/operator.h"
#include "conv/reference.h"
#include "core/autograd.h"
#include "core/direct.h"

namespace fastvision {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

bool is_defined(const OptionalTensor& tensor) {
  return tensor && tensor->defined();
}

// By operators, for gradients and for libraries that do not scale weights.
Tensor fold(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
            const Tensor& mean, const Tensor& var, const OptionalTensor& gamma, const OptionalTensor& beta,
            double eps) {
  static const Operator<Tensor, const Tensor&, const Tensor&, const OptionalTensor&> convolve(
      "fastvision::conv2d_pool2d");
  Tensor scale = at::rsqrt(var + eps);
  if (is_defined(gamma)) scale = scale * *gamma;
  const Tensor centre = is_defined(bias) ? *bias - mean : -mean;
  const Tensor shift = is_defined(beta) ? at::addcmul(*beta, centre, scale) : centre * scale;
  const Tensor scaled = weight * scale.view({-1, 1, 1, 1});
  return convolve(o, input, scaled, shift);
}

// Whether every tensor of the normalisation has one element of the weight's dtype for each output channel.
bool norm_fits(const Tensor& weight, std::initializer_list<const OptionalTensor*> norm) {
  return std::all_of(norm.begin(), norm.end(), [&](const OptionalTensor* t) {
    return !is_defined(*t) || ((*t)->dim() == 1 && (*t)->sym_size(0) == weight.sym_size(0) &&
                               (*t)->scalar_type() == weight.scalar_type() && (*t)->device() == weight.device());
  });
}

// Other dtypes would round the weights once more.
bool can_fold(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, const Tensor& mean,
              const Tensor& var, const OptionalTensor& gamma, const OptionalTensor& beta) {
  const auto dtype = weight.scalar_type();
  const OptionalTensor means = mean, vars = var;
  return (dtype == at::kFloat || dtype == at::kDouble) && input.dim() == 4 && weight.dim() == 4 &&
         norm_fits(weight, {&bias, &means, &vars, &gamma, &beta});
}

Tensor compose(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
               const Tensor& mean, const Tensor& var, const OptionalTensor& gamma, const OptionalTensor& beta,
               double eps) {
  const auto run = can_fold(input, weight, bias, mean, var, gamma, beta) ? fold : conv2d_batch_norm_pool2d_reference;
  return run(o, input, weight, bias, mean, var, gamma, beta, eps);
}

const float* floats(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

// By the kernel, where there is one.
Tensor conv2d_batch_norm_pool2d(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                                const OptionalTensor& bias, const Tensor& mean, const Tensor& var,
                                const OptionalTensor& gamma, const OptionalTensor& beta, double eps) {
  if (!can_fold(input, weight, bias, mean, var, gamma, beta)) {
    return conv2d_batch_norm_pool2d_reference(o, input, weight, bias, mean, var, gamma, beta, eps);
  }
  check_tensors(o, input, weight, bias);
  const auto problem = conv2d_pool2d_for_kernel(o, input, weight, /*training=*/false);
  if (!problem) {
    return conv2d_batch_norm_pool2d_reference(o, input, weight, bias, mean, var, gamma, beta, eps);
  }
  if (!scales_weights(weight)) return fold(o, input, weight, bias, mean, var, gamma, beta, eps);
  const auto dense = [](const OptionalTensor& t) { return is_defined(t) ? t->contiguous() : Tensor(); };
  const Tensor b = dense(bias), m = mean.contiguous(), v = var.contiguous(), g = dense(gamma), h = dense(beta);
  const int64_t channels = weight.size(0);
  const Tensor scale = at::empty({channels}, weight.options(), at::MemoryFormat::Contiguous);
  const Tensor shift = at::empty({channels}, weight.options(), at::MemoryFormat::Contiguous);
  const float *biases = floats(b), *means = floats(m), *vars = floats(v), *gammas = floats(g), *betas = floats(h);
  float *scales = scale.mutable_data_ptr<float>(), *shifts = shift.mutable_data_ptr<float>();
  for (int64_t c = 0; c < channels; ++c) {
    scales[c] = (gammas ? gammas[c] : 1.f) / std::sqrt(vars[c] + static_cast<float>(eps));
    shifts[c] = ((biases ? biases[c] : 0.f) - means[c]) * scales[c] + (betas ? betas[c] : 0.f);
  }
  return conv2d_pool2d_by_kernel(*problem, input, weight, shift, scale);
}

Tensor conv2d_batch_norm_pool2d_autograd(const ConvPool2dOptions& o, const Tensor& input, const Tensor& weight,
                                         const OptionalTensor& bias, const Tensor& mean, const Tensor& var,
                                         const OptionalTensor& gamma, const OptionalTensor& beta, double eps) {
  const std::initializer_list<Tensor> tensors{
      input, weight, bias.value_or(Tensor()), mean, var, gamma.value_or(Tensor()), beta.value_or(Tensor())};
  if (inside_functional_transform() || std::any_of(tensors.begin(), tensors.end(), has_forward_gradient)) {
    return conv2d_batch_norm_pool2d_reference(o, input, weight, bias, mean, var, gamma, beta, eps);
  }
  if (at::GradMode::is_enabled() && std::any_of(tensors.begin(), tensors.end(), requires_grad)) {
    return compose(o, input, weight, bias, mean, var, gamma, beta, eps);
  }
  static const Operator<Tensor, const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&,
                        const OptionalTensor&, const OptionalTensor&, double>
      below("fastvision::conv2d_batch_norm_pool2d");
  const at::AutoDispatchBelowADInplaceOrView guard;
  return below(o, input, weight, bias, mean, var, gamma, beta, eps);
}

}  // namespace

const bool kHasDirectKernel =
    add_direct_kernel("fastvision::conv2d_batch_norm_pool2d", [](at::ArrayRef<c10::IValue> options) {
      const double eps = options.at(0).toDouble();
      return DirectKernel([eps, o = ConvPool2dOptions::from(options.slice(1))](c10::Stack& stack) {
        const auto optional = [&](size_t i) { return stack[i].toOptional<Tensor>(); };
        set_results(stack,
                    conv2d_batch_norm_pool2d(o, stack[0].toTensor(), stack[1].toTensor(), optional(2),
                                             stack[3].toTensor(), stack[4].toTensor(), optional(5), optional(6), eps));
      });
    });

TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("conv2d_batch_norm_pool2d", &WithOptions<&conv2d_batch_norm_pool2d>::call);
}

TORCH_LIBRARY_IMPL(fastvision, CUDA, m) {
  m.impl("conv2d_batch_norm_pool2d", &WithOptions<&conv2d_batch_norm_pool2d>::call);
}

TORCH_LIBRARY_IMPL(fastvision, Autograd, m) {
  m.impl("conv2d_batch_norm_pool2d", &WithOptions<&conv2d_batch_norm_pool2d_autograd>::call);
}

TORCH_LIBRARY_IMPL(fastvision, FuncTorchBatched, m) {
  m.impl("conv2d_batch_norm_pool2d", &WithOptions<&conv2d_batch_norm_pool2d_reference>::call);
}

// The convolution is cast, what makes its weights is not.
TORCH_LIBRARY_IMPL(fastvision, AutocastCPU, m) {
  m.impl("conv2d_batch_norm_pool2d", &WithOptions<&compose>::call);
}

TORCH_LIBRARY_IMPL(fastvision, AutocastCUDA, m) {
  m.impl("conv2d_batch_norm_pool2d", &WithOptions<&compose>::call);
}

}  // namespace fastvision

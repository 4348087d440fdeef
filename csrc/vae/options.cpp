#include "vae/options.h"

#include <c10/util/Exception.h>

#include <limits>

namespace fastvision {
namespace {

std::optional<Reduction> reduction_of(std::string_view name) {
  if (name == "none") return Reduction::none;
  if (name == "sum") return Reduction::sum;
  if (name == "mean") return Reduction::mean;
  if (name == "batchmean") return Reduction::batchmean;
  return std::nullopt;
}

}  // namespace

Reduction kl_reduction(const char* op, std::string_view name) {
  const auto reduction = reduction_of(name);
  TORCH_CHECK_VALUE(reduction, op, ": reduction: expected 'sum', 'mean', 'batchmean' or 'none', got '", name, "'");
  return *reduction;
}

Reduction loss_reduction(const char* op, std::string_view name) {
  const auto reduction = reduction_of(name);
  TORCH_CHECK_VALUE(reduction && *reduction != Reduction::none, op,
                    ": reduction: expected 'sum', 'mean' or 'batchmean', got '", name, "'");
  return *reduction;
}

Reconstruction reconstruction_of(std::string_view name) {
  if (name == "mse") return Reconstruction::mse;
  if (name == "bce") return Reconstruction::bce;
  TORCH_CHECK_VALUE(name == "bce_with_logits",
                    "fastvision::elbo_loss: reconstruction: expected 'mse', 'bce' or 'bce_with_logits', got '", name,
                    "'");
  return Reconstruction::bce_with_logits;
}

void check_has_batch(const char* op, const char* name, Reduction reduction, const at::Tensor& tensor) {
  TORCH_CHECK_VALUE(reduction != Reduction::batchmean || tensor.dim() > 0, op, ": ", name,
                    ": expected at least one dimension, the batch, for reduction 'batchmean', got a tensor without");
}

double scale_of(Reduction reduction, const at::Tensor& tensor) {
  // Of nothing, infinity times a sum of 0: NaN, as in stock.
  const auto inverse = [](int64_t count) {
    return count ? 1.0 / static_cast<double>(count) : std::numeric_limits<double>::infinity();
  };
  switch (reduction) {
    case Reduction::mean:
      return inverse(tensor.numel());
    case Reduction::batchmean:
      return inverse(tensor.size(0));
    default:
      return 1;
  }
}

at::Tensor reduced(Reduction reduction, const at::Tensor& elements) {
  switch (reduction) {
    case Reduction::none:
      return elements;
    case Reduction::sum:
      return elements.sum();
    case Reduction::mean:
      return elements.mean();
    default:
      return elements.sum().div(elements.sym_size(0));
  }
}

ElboOptions::ElboOptions(std::string_view reconstruction_, double beta_, double free_bits_, std::string_view reduction_)
    : reconstruction(reconstruction_of(reconstruction_)),
      beta(beta_),
      free_bits(free_bits_),
      reduction(loss_reduction("fastvision::elbo_loss", reduction_)) {
  TORCH_CHECK_VALUE(free_bits >= 0, "fastvision::elbo_loss: free_bits: expected a number of at least 0, got ",
                    free_bits);
}

}  // namespace fastvision

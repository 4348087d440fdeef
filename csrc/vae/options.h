// The family's options as the operators take them, checked, and what they mean in numbers.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

#include "vae/vae.h"

namespace fastvision {

enum class Reduction : uint8_t { none, sum, mean, batchmean };

// Raise what names the operator, the option, what is expected and what came.
Reduction kl_reduction(const char* op, std::string_view name);    // all four
Reduction loss_reduction(const char* op, std::string_view name);  // all but none
Reconstruction reconstruction_of(std::string_view name);

// batchmean divides by the size of the first dimension, which there must be.
void check_has_batch(const char* op, const char* name, Reduction reduction, const at::Tensor& tensor);

// What the sum over the tensor is multiplied by.
double scale_of(Reduction reduction, const at::Tensor& tensor);

// The same of a tensor whose sizes may be symbolic.
at::Tensor reduced(Reduction reduction, const at::Tensor& elements);

struct ElboOptions {
  Reconstruction reconstruction;
  double beta, free_bits;
  Reduction reduction;

  ElboOptions(std::string_view reconstruction, double beta, double free_bits, std::string_view reduction);
};

}  // namespace fastvision

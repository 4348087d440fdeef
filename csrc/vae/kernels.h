// The vae kernels of one library as a table of functions. vae/op.cpp checks the arguments, allocates the outputs and
// calls these.
#pragma once

#include "core/context.h"
#include "vae/vae.h"

namespace fastvision {

// Pointers are of the problem's dtype, arrays are dense, `state` is a seed and an offset where the kernel can read
// them: on a GPU in its memory, so that a captured graph draws new noise in every replay. Any number of elements may be
// zero. Arithmetic is fp32, and results are rounded once.
struct ReparameterizeForward {
  const void* mu;
  const void* logvar;
  const int64_t* state;
  void* z;
  void* kl;  // one element, or all, or null, as the problem says
};

// A null gradient is not wanted, or, among the incoming ones, zero. The noise is drawn again from the state.
struct ReparameterizeBackward {
  const void* grad_z;
  const void* grad_kl;  // as kl
  const void* mu;
  const void* logvar;
  const int64_t* state;
  void* grad_mu;
  void* grad_logvar;
};

struct ElboLossForward {
  const void* recon;
  const void* target;
  const void* mu;
  const void* logvar;
  void* loss;  // one element
};

struct ElboLossBackward {
  const void* grad_loss;  // one element
  const void* recon;
  const void* target;
  const void* mu;
  const void* logvar;
  void* grad_recon;
  void* grad_mu;
  void* grad_logvar;
};

// Every launch function returns null, or what went wrong.
struct VaeKernels {
  // The stream's first `elements` numbers, in fp32.
  const char* (*standard_normal)(int64_t elements, const int64_t* state, float* noise, Context&);
  const char* (*forward)(const Reparameterization&, const ReparameterizeForward&, Context&);
  const char* (*backward)(const Reparameterization&, const ReparameterizeBackward&, Context&);
  const char* (*elbo_forward)(const ElboLoss&, const ElboLossForward&, Context&);
  const char* (*elbo_backward)(const ElboLoss&, const ElboLossBackward&, Context&);
};

}  // namespace fastvision

// What the families' Autograd kernels ask of tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <initializer_list>
#include <optional>

namespace fastvision {

inline bool requires_grad(const at::Tensor& tensor) {
  return tensor.defined() && tensor.requires_grad();
}

// Forward-mode derivatives exist for the references only.
inline bool has_forward_gradient(const at::Tensor& tensor) {
  return tensor.defined() && tensor._fw_grad(/*level=*/0).defined();
}

inline bool any_of(std::initializer_list<const at::Tensor*> tensors, bool (*predicate)(const at::Tensor&)) {
  return std::any_of(tensors.begin(), tensors.end(), [=](const at::Tensor* tensor) { return predicate(*tensor); });
}

// A tensor as operators take one that may be absent.
inline std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

// Whether it stands for a tensor in a graph that Python makes: a fake or a functional one, or another subclass.
inline bool is_traced(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->is_python_dispatch();
}

// torch.func's transforms know the operators that a reference is made of, and refuse C++ autograd functions.
inline bool inside_functional_transform() {
  return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

}  // namespace fastvision

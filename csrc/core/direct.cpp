#include "core/direct.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <unordered_map>

#include "core/autograd.h"

namespace fastvision {
namespace {

std::unordered_map<std::string, MakeDirectKernel>& direct_kernels() {
  static std::unordered_map<std::string, MakeDirectKernel> kernels;
  return kernels;
}

// What stands before the backends and does nothing for these operators without gradients.
constexpr c10::DispatchKeySet kPassed =
    c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::DispatchKeySet(c10::DispatchKey::BackendSelect);

// Of arguments that are tensors, lists of them or absent.
template <class F>
void for_each_tensor(const c10::Stack& arguments, const F& f) {
  for (const c10::IValue& argument : arguments) {
    if (argument.isTensor()) {
      f(argument.toTensor());
    } else if (argument.isTensorList()) {
      for (const c10::IValue& element : argument.toListRef()) f(element.toTensor());
    }
  }
}

}  // namespace

bool add_direct_kernel(const char* operator_name, MakeDirectKernel make) {
  return direct_kernels().emplace(operator_name, make).second;
}

MakeDirectKernel find_direct_kernel(const std::string& operator_name) {
  const auto found = direct_kernels().find(operator_name);
  return found == direct_kernels().end() ? nullptr : found->second;
}

bool is_direct(const c10::Stack& arguments) {
  const auto local = c10::impl::tls_local_dispatch_key_set();
  c10::DispatchKeySet keys = local.included_;
  for_each_tensor(arguments, [&](const at::Tensor& tensor) { keys = keys | tensor.key_set(); });
  keys = keys - local.excluded_;
  if (keys - kPassed != c10::DispatchKeySet(c10::DispatchKey::CPU)) return false;
  bool is_differentiated = false;
  if (keys.has_any(c10::autograd_dispatch_keyset)) {
    const bool grad_mode = at::GradMode::is_enabled();
    for_each_tensor(arguments, [&](const at::Tensor& tensor) {
      is_differentiated |= (grad_mode && requires_grad(tensor)) || has_forward_gradient(tensor);
    });
  }
  return !is_differentiated && !at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION).has_value();
}

void call_direct(const DirectKernel& kernel, c10::Stack& arguments) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  kernel(arguments);
}

}  // namespace fastvision

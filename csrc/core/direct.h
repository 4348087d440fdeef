// Kernels that are called without the dispatcher, which takes half a microsecond to unpack a call's options.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <c10/util/ArrayRef.h>

#include <functional>
#include <string>
#include <tuple>
#include <utility>

namespace fastvision {

#pragma GCC visibility push(default)  // _C calls these

// What an operator's CPU kernel does, its options given: the other arguments from the stack, results to the stack.
using DirectKernel = std::function<void(c10::Stack&)>;

// Options in the order of the schema. Raises on those that the operator refuses.
using MakeDirectKernel = DirectKernel (*)(at::ArrayRef<c10::IValue> options);

// To be done while libfastvision loads.
bool add_direct_kernel(const char* operator_name, MakeDirectKernel make);

// Null where the operator has none.
MakeDirectKernel find_direct_kernel(const std::string& operator_name);

// Whether the dispatcher would do no more than to call the CPU kernel: dense CPU tensors, lists of them or None, no
// gradient, no autocast, vmap, mode or profiler.
bool is_direct(const c10::Stack& arguments);

// Calls the kernel as the dispatcher would, where is_direct.
void call_direct(const DirectKernel& kernel, c10::Stack& arguments);

#pragma GCC visibility pop

// Replaces a kernel's arguments by what it computed from them.
template <class... Results>
void set_results(c10::Stack& stack, std::tuple<Results...> results) {
  stack.clear();
  std::apply([&](Results&... result) { (stack.emplace_back(std::move(result)), ...); }, results);
}

inline void set_results(c10::Stack& stack, at::Tensor result) {
  set_results(stack, std::tuple(std::move(result)));
}

}  // namespace fastvision

// Calls of operators from Python whose options are known before.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <pybind11/pybind11.h>

#include <string>
#include <utility>
#include <vector>

#include "core/direct.h"

namespace fastvision {

using OperatorName = std::pair<std::string, std::string>;  // and of its overload

// An operator whose arguments after the first `tensors` (each a Tensor, None or a list of Tensors) are `options`, or
// its defaults. It goes through the dispatcher as torch.ops does, but converts options once and looks at no overloads.
class OperatorCall {
 public:
  OperatorCall(const OperatorName& name, size_t tensors, const pybind11::dict& options);

  // A stack with room for a call.
  c10::Stack stack() const;

  // Whether calls are as torch.ops would make them: no torch function mode wants to see them.
  static bool is_plain();

  // Adds an argument; false where it is for torch.ops to judge: a subclass of Tensor, or a wrong type.
  bool append(PyObject* argument, c10::Stack& stack) const;

  // Adds a list of tensors, likewise.
  static bool append_list(PyObject* const* items, size_t count, c10::Stack& stack);

  bool has_all(const c10::Stack& stack) const { return stack.size() == is_list_.size(); }

  // Calls with the arguments that were added, all of them. Needs no lock of the interpreter's.
  void run(c10::Stack& stack) const;

  // What a call returned, as torch.ops returns it.
  static PyObject* results(c10::Stack& stack);

  // The first result, and a tuple of the others.
  static PyObject* nested_results(c10::Stack& stack);

 private:
  c10::OperatorHandle op_;
  std::vector<bool> is_list_;  // of the arguments that a call passes
  std::vector<c10::IValue> options_;
  DirectKernel direct_;
};

}  // namespace fastvision

#include "operator_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>

namespace py = pybind11;

namespace fastvision {

OperatorCall::OperatorCall(const OperatorName& name, size_t tensors, const py::dict& options)
    : op_(c10::Dispatcher::singleton().findSchemaOrThrow(name.first.c_str(), name.second.c_str())) {
  const auto& arguments = op_.schema().arguments();
  for (size_t i = 0; i < tensors; ++i) {
    is_list_.push_back(arguments.at(i).type()->kind() == c10::TypeKind::ListType);
  }
  for (size_t i = tensors; i < arguments.size(); ++i) {
    const auto& argument = arguments[i];
    options_.push_back(options.contains(argument.name())
                           ? torch::jit::toIValue(options[argument.name().c_str()], argument.type(), argument.N())
                           : argument.default_value().value());
  }
  const MakeDirectKernel make = name.second.empty() ? find_direct_kernel(name.first) : nullptr;
  if (make) direct_ = make(options_);
}

c10::Stack OperatorCall::stack() const {
  c10::Stack stack;
  stack.reserve(is_list_.size() + options_.size());
  return stack;
}

bool OperatorCall::is_plain() {
  return !at::impl::torch_function_mode_enabled();
}

bool OperatorCall::append(PyObject* argument, c10::Stack& stack) const {
  if (stack.size() >= is_list_.size()) return false;
  if (is_list_[stack.size()]) {
    return (PyList_CheckExact(argument) || PyTuple_CheckExact(argument)) &&
           append_list(PySequence_Fast_ITEMS(argument), PySequence_Fast_GET_SIZE(argument), stack);
  }
  if (argument == Py_None) {
    stack.emplace_back();
    return true;
  }
  if (!THPVariable_CheckExact(argument)) return false;
  stack.emplace_back(THPVariable_Unpack(argument));
  return true;
}

void OperatorCall::run(c10::Stack& stack) const {
  if (direct_ && is_direct(stack)) return call_direct(direct_, stack);
  stack.insert(stack.end(), options_.begin(), options_.end());
  op_.callBoxed(stack);
}

bool OperatorCall::append_list(PyObject* const* items, size_t count, c10::Stack& stack) {
  c10::List<at::Tensor> tensors;
  tensors.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    if (!THPVariable_CheckExact(items[i])) return false;
    tensors.push_back(THPVariable_Unpack(items[i]));
  }
  stack.emplace_back(std::move(tensors));
  return true;
}

namespace {

py::object wrap(c10::IValue& result) {
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(result).toTensor()));
}

py::tuple wrap_from(c10::Stack& stack, size_t first) {
  py::tuple wrapped(stack.size() - first);
  for (size_t i = first; i < stack.size(); ++i) wrapped[i - first] = wrap(stack[i]);
  return wrapped;
}

}  // namespace

PyObject* OperatorCall::results(c10::Stack& stack) {
  return stack.size() == 1 ? wrap(stack[0]).release().ptr() : wrap_from(stack, 0).release().ptr();
}

PyObject* OperatorCall::nested_results(c10::Stack& stack) {
  return py::make_tuple(wrap(stack[0]), wrap_from(stack, 1)).release().ptr();
}

}  // namespace fastvision

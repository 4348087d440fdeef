#include "prepared_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include <memory>
#include <vector>

namespace py = pybind11;

namespace fastvision {
namespace {

struct PreparedCall {
  c10::OperatorHandle op;
  std::vector<bool> is_list;  // of the arguments that a call passes: a list of tensors, or a tensor
  std::vector<c10::IValue> options;
  py::object otherwise;
};

constexpr const char* kCapsule = "fastvision.PreparedCall";

bool append_list(PyObject* const* items, Py_ssize_t count, c10::Stack& stack) {
  c10::List<at::Tensor> tensors;
  tensors.reserve(count);
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!THPVariable_CheckExact(items[i])) return false;
    tensors.push_back(THPVariable_Unpack(items[i]));
  }
  stack.emplace_back(std::move(tensors));
  return true;
}

bool append_argument(PyObject* argument, bool is_list, c10::Stack& stack) {
  if (is_list) {
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

// False where the call is not a plain one.
bool append_arguments(const PreparedCall& prepared, PyObject* const* arguments, size_t count, c10::Stack& stack) {
  if (count != prepared.is_list.size() || at::impl::torch_function_mode_enabled()) {
    return false;
  }
  for (size_t i = 0; i < count; ++i) {
    if (!append_argument(arguments[i], prepared.is_list[i], stack)) return false;
  }
  return true;
}

PyObject* wrap_results(c10::Stack& results) {
  if (results.size() == 1) return THPVariable_Wrap(std::move(results[0]).toTensor());
  py::tuple wrapped(results.size());
  for (size_t i = 0; i < results.size(); ++i) {
    wrapped[i] = py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(results[i]).toTensor()));
  }
  return wrapped.release().ptr();
}

PyObject* call(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const auto& prepared = *static_cast<const PreparedCall*>(PyCapsule_GetPointer(self, kCapsule));
  c10::Stack stack;
  stack.reserve(count + prepared.options.size());
  if (!append_arguments(prepared, arguments, count, stack)) {
    return PyObject_Vectorcall(prepared.otherwise.ptr(), arguments, count, nullptr);
  }
  stack.insert(stack.end(), prepared.options.begin(), prepared.options.end());
  {
    const py::gil_scoped_release no_gil;
    prepared.op.callBoxed(stack);
  }
  return wrap_results(stack);
  END_HANDLE_TH_ERRORS
}

PyMethodDef method{"prepared_call", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&call)), METH_FASTCALL,
                   nullptr};

}  // namespace

py::object prepare_call(const std::string& name, size_t tensors, const py::dict& options, py::function otherwise) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
  auto prepared = std::make_unique<PreparedCall>(PreparedCall{op, {}, {}, std::move(otherwise)});
  const auto& arguments = op.schema().arguments();
  for (size_t i = 0; i < tensors; ++i) {
    prepared->is_list.push_back(arguments[i].type()->kind() == c10::TypeKind::ListType);
  }
  for (size_t i = tensors; i < arguments.size(); ++i) {
    const auto& argument = arguments[i];
    prepared->options.push_back(
        options.contains(argument.name())
            ? torch::jit::toIValue(options[argument.name().c_str()], argument.type(), argument.N())
            : argument.default_value().value());
  }
  const py::capsule capsule(prepared.get(), kCapsule, [](PyObject* self) {
    delete static_cast<PreparedCall*>(PyCapsule_GetPointer(self, kCapsule));
  });
  prepared.release();
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, capsule.ptr()));
}

}  // namespace fastvision

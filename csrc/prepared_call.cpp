#include "prepared_call.h"

#include <torch/csrc/Exceptions.h>

#include <memory>

#include "attributes.h"
#include "operator_call.h"

namespace py = pybind11;

namespace fastvision {
namespace {

struct PreparedCall {
  static constexpr const char* kName = "fastvision.PreparedCall";

  OperatorCall op;
  py::object otherwise;

  bool run(PyObject* const* arguments, size_t count, c10::Stack& stack) const {
    for (size_t i = 0; i < count; ++i) {
      if (!op.append(arguments[i], stack)) return false;
    }
    return op.run(stack);
  }
};

struct ModuleCall {
  static constexpr const char* kName = "fastvision.ModuleCall";

  OperatorCall op;
  size_t inputs;
  py::tuple names;
  std::vector<std::pair<py::object, py::object>> attributes;
  py::object otherwise;

  bool run(PyObject* const* arguments, size_t count, c10::Stack& stack) const {
    if (count != inputs + 1) return false;
    for (size_t i = 1; i < count; ++i) {
      if (!op.append(arguments[i], stack)) return false;
    }
    const py::object module = attributes_of(arguments[0]);
    if (!module || !has_attributes(module.ptr()) || !append_tensors(module.ptr(), stack)) return false;
    return op.run(stack);
  }

 private:
  bool has_attributes(PyObject* module) const {
    for (const auto& [name, value] : attributes) {
      PyObject* found = find(module, name.ptr());
      if (!found || !are_equal(found, value.ptr())) return false;
    }
    return true;
  }

  bool append_tensors(PyObject* module, c10::Stack& stack) const {
    static PyObject* const parameters_name = PyUnicode_InternFromString("_parameters");
    PyObject* parameters = find(module, parameters_name);
    if (!parameters || !PyDict_Check(parameters)) return false;
    for (const py::handle& name : names) {
      PyObject* tensor = find(parameters, name.ptr());
      if (!tensor || !op.append(tensor, stack)) return false;
    }
    return true;
  }
};

template <class Call>
PyObject* call(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const auto& prepared = *static_cast<const Call*>(PyCapsule_GetPointer(self, Call::kName));
  c10::Stack stack = prepared.op.stack();
  if (!OperatorCall::is_plain() || !prepared.run(arguments, count, stack)) {
    return PyObject_Vectorcall(prepared.otherwise.ptr(), arguments, count, nullptr);
  }
  return OperatorCall::results(stack);
  END_HANDLE_TH_ERRORS
}

template <class Call>
py::object function_of(Call&& call_) {
  static PyMethodDef method{"prepared_call", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&call<Call>)),
                            METH_FASTCALL, nullptr};
  auto prepared = std::make_unique<Call>(std::move(call_));
  const py::capsule capsule(prepared.get(), Call::kName,
                            [](PyObject* self) { delete static_cast<Call*>(PyCapsule_GetPointer(self, Call::kName)); });
  prepared.release();
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, capsule.ptr()));
}

}  // namespace

py::object prepare_call(const std::string& name, size_t tensors, const py::dict& options, py::function otherwise) {
  return function_of(PreparedCall{{name, tensors, options}, std::move(otherwise)});
}

py::object prepare_module_call(const std::string& name, size_t inputs, const py::tuple& names, const py::dict& options,
                               const py::dict& attributes, py::function otherwise) {
  ModuleCall call{{name, inputs + names.size(), options}, inputs, names, {}, std::move(otherwise)};
  for (const auto& [attribute, value] : attributes) {
    call.attributes.emplace_back(py::reinterpret_borrow<py::object>(attribute),
                                 py::reinterpret_borrow<py::object>(value));
  }
  return function_of(std::move(call));
}

}  // namespace fastvision

#include "prepared_call.h"

#include <torch/csrc/Exceptions.h>

#include <memory>
#include <utility>
#include <vector>

#include "attributes.h"
#include "operator_call.h"

namespace py = pybind11;

namespace fastvision {
namespace {

// Adds those of a module's parameters; false where one is not registered as such, or no plain tensor.
bool append_parameters(const OperatorCall& op, PyObject* attributes, const py::tuple& names, c10::Stack& stack) {
  static PyObject* const key = PyUnicode_InternFromString("_parameters");
  PyObject* parameters = find(attributes, key);
  if (!parameters || !PyDict_Check(parameters)) return false;
  for (const py::handle& name : names) {
    PyObject* tensor = find(parameters, name.ptr());
    if (!tensor || !op.append(tensor, stack)) return false;
  }
  return true;
}

struct PreparedCall {
  static constexpr const char* kName = "fastvision.PreparedCall";

  OperatorCall op;

  // Results of a plain call in the stack; false where it is none.
  bool run(PyObject* const* arguments, size_t count, c10::Stack& stack) const {
    stack = op.stack();
    for (size_t i = 0; i < count; ++i) {
      if (!op.append(arguments[i], stack)) return false;
    }
    if (!op.has_all(stack)) return false;
    const py::gil_scoped_release no_gil;
    op.run(stack);
    return true;
  }
};

struct ModuleCall {
  static constexpr const char* kName = "fastvision.ModuleCall";

  OperatorCall op;
  size_t inputs;
  py::tuple names;
  std::vector<std::pair<py::object, py::object>> attributes;

  bool run(PyObject* const* arguments, size_t count, c10::Stack& stack) const {
    if (count != inputs + 1) return false;
    stack = op.stack();
    for (size_t i = 1; i < count; ++i) {
      if (!op.append(arguments[i], stack)) return false;
    }
    const py::object module = attributes_of(arguments[0]);
    if (!has_attributes(module.ptr()) || !append_parameters(op, module.ptr(), names, stack)) return false;
    const py::gil_scoped_release no_gil;
    op.run(stack);
    return true;
  }

 private:
  bool has_attributes(PyObject* module) const {
    for (const auto& [name, value] : attributes) {
      PyObject* found = find(module, name.ptr());
      if (!found || !are_equal(found, value.ptr())) return false;
    }
    return true;
  }
};

struct SequenceCall {
  static constexpr const char* kName = "fastvision.SequenceCall";

  struct Step {
    OperatorCall op;
    py::handle module;  // None where the operator has an input only
    py::tuple names;
  };

  std::vector<Step> steps;

  bool run(PyObject* const* arguments, size_t count, c10::Stack& stack) const {
    if (count != 1) return false;
    c10::SmallVector<c10::Stack, 8> stacks(steps.size());
    for (size_t i = 0; i < steps.size(); ++i) {
      const Step& step = steps[i];
      stacks[i] = step.op.stack();
      if (i > 0) {
        stacks[i].emplace_back();  // the result of the step before
      } else if (!step.op.append(arguments[0], stacks[0])) {
        return false;
      }
      if (!step.module.is_none()) {
        const py::object module = attributes_of(step.module.ptr());
        if (!append_parameters(step.op, module.ptr(), step.names, stacks[i])) return false;
      }
    }
    const py::gil_scoped_release no_gil;  // once: with several clients each release may hand the lock over
    for (size_t i = 0; i < steps.size(); ++i) {
      if (i > 0) stacks[i][0] = std::move(stacks[i - 1][0]);
      steps[i].op.run(stacks[i]);
    }
    stack = std::move(stacks.back());
    return true;
  }
};

// What a function of ours is bound to: a tuple, so that Python's collector sees the objects it refers to.
enum Bound : uint8_t { kCall, kOtherwise, kModules };

template <class Call>
PyObject* call(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const auto& prepared = *static_cast<const Call*>(PyCapsule_GetPointer(PyTuple_GET_ITEM(self, kCall), Call::kName));
  c10::Stack stack;
  if (!OperatorCall::is_plain() || !prepared.run(arguments, count, stack)) {
    return PyObject_Vectorcall(PyTuple_GET_ITEM(self, kOtherwise), arguments, count, nullptr);
  }
  return OperatorCall::results(stack);
  END_HANDLE_TH_ERRORS
}

template <class Call>
py::object function_of(Call&& bound, const py::function& otherwise, const py::object& modules = py::none()) {
  static PyMethodDef method{"prepared_call", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&call<Call>)),
                            METH_FASTCALL, nullptr};
  auto prepared = std::make_unique<Call>(std::move(bound));
  const py::capsule capsule(prepared.get(), Call::kName,
                            [](PyObject* self) { delete static_cast<Call*>(PyCapsule_GetPointer(self, Call::kName)); });
  prepared.release();
  const py::tuple self = py::make_tuple(capsule, otherwise, modules);
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, self.ptr()));
}

}  // namespace

py::object prepare_call(const OperatorName& name, size_t tensors, const py::dict& options,
                        const py::function& otherwise) {
  return function_of(PreparedCall{{name.first, name.second, tensors, options}}, otherwise);
}

py::object prepare_module_call(const OperatorName& name, size_t inputs, const py::tuple& names, const py::dict& options,
                               const py::dict& attributes, const py::function& otherwise) {
  ModuleCall call{{name.first, name.second, inputs + names.size(), options}, inputs, names, {}};
  for (const auto& [attribute, value] : attributes) {
    call.attributes.emplace_back(py::reinterpret_borrow<py::object>(attribute),
                                 py::reinterpret_borrow<py::object>(value));
  }
  return function_of(std::move(call), otherwise);
}

py::object prepare_sequence(const std::vector<SequenceStep>& steps, const py::function& otherwise) {
  if (steps.empty()) throw py::value_error("steps: expected at least one");
  SequenceCall call;
  py::list modules;
  for (const auto& [name, options, module, names] : steps) {
    call.steps.push_back({{name.first, name.second, 1 + names.size(), options}, module, names});
    modules.append(module);
  }
  return function_of(std::move(call), otherwise, py::tuple(modules));
}

}  // namespace fastvision

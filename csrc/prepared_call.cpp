#include "prepared_call.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "attributes.h"

namespace py = pybind11;

namespace fastvision {
namespace {

// Where a module has registered a parameter, or a buffer; null where it has not. A buffer may not be None.
PyObject* find_registered(PyObject* attributes, PyObject* name) {
  static PyObject* const keys[] = {PyUnicode_InternFromString("_parameters"), PyUnicode_InternFromString("_buffers")};
  for (PyObject* const key : keys) {
    PyObject* registered = find(attributes, key);
    if (!registered || !PyDict_Check(registered)) return nullptr;
    PyObject* tensor = find(registered, name);
    if (tensor) return key == keys[1] && tensor == Py_None ? nullptr : tensor;
  }
  return nullptr;
}

// add(parameter) for those of a module's; false where one is not registered as such, or it is.
template <class F>
bool add_parameters(PyObject* attributes, const py::tuple& names, const F& add) {
  return std::all_of(names.begin(), names.end(), [&](const py::handle& name) {
    PyObject* parameter = find_registered(attributes, name.ptr());
    return parameter && add(parameter);
  });
}

bool append_parameters(const OperatorCall& op, PyObject* attributes, const py::tuple& names, c10::Stack& stack) {
  return add_parameters(attributes, names, [&](PyObject* parameter) { return op.append(parameter, stack); });
}

using Attributes = std::vector<std::pair<py::object, py::object>>;

Attributes attributes_from(const py::dict& dict) {
  Attributes attributes;
  for (const auto& [name, value] : dict) {
    attributes.emplace_back(py::reinterpret_borrow<py::object>(name), py::reinterpret_borrow<py::object>(value));
  }
  return attributes;
}

bool has_attributes(PyObject* module, const Attributes& attributes) {
  for (const auto& [name, value] : attributes) {
    PyObject* found = find(module, name.ptr());
    if (!found || !are_equal(found, value.ptr())) return false;
  }
  return true;
}

bool append_all(const OperatorCall& op, PyObject* const* arguments, size_t count, c10::Stack& stack) {
  return std::all_of(arguments, arguments + count, [&](PyObject* argument) { return op.append(argument, stack); });
}

// False where arguments are missing.
bool run_without_lock(const OperatorCall& op, c10::Stack& stack) {
  if (!op.has_all(stack)) return false;
  const py::gil_scoped_release no_gil;
  op.run(stack);
  return true;
}

struct PreparedCall {
  static constexpr const char* kName = "fastvision.PreparedCall";

  OperatorCall op;

  // Results of a plain call in the stack; false where it is none.
  bool run(PyObject* const* arguments, size_t count, c10::Stack& stack) const {
    stack = op.stack();
    return append_all(op, arguments, count, stack) && run_without_lock(op, stack);
  }
};

struct ModuleCall {
  static constexpr const char* kName = "fastvision.ModuleCall";

  OperatorCall op;
  py::tuple names;
  Attributes attributes;

  bool run(PyObject* const* arguments, size_t count, c10::Stack& stack) const {
    if (count == 0) return false;
    stack = op.stack();
    if (!append_all(op, arguments + 1, count - 1, stack)) return false;
    const py::object module = attributes_of(arguments[0]);
    return has_attributes(module.ptr(), attributes) && append_parameters(op, module.ptr(), names, stack) &&
           run_without_lock(op, stack);
  }
};

// An operator of input, states and a list of parameters, called with states of zeros.
struct RecurrentCall {
  static constexpr const char* kName = "fastvision.RecurrentCall";

  OperatorCall op;
  py::tuple names;
  Attributes attributes;
  py::tuple absent;
  RecurrentStates states;

  bool run(PyObject* const* arguments, size_t count, c10::Stack& stack) const {
    if (count != 2 || torch::jit::tracer::isTracing()) return false;
    const py::object module = attributes_of(arguments[0]);
    if (!has_attributes(module.ptr(), attributes) || has_any(module.ptr())) return false;
    c10::SmallVector<PyObject*, 16> parameters;
    const auto add = [&](PyObject* parameter) {
      parameters.push_back(parameter);
      return true;
    };
    if (!add_parameters(module.ptr(), names, add)) return false;
    stack = op.stack();
    if (!op.append(arguments[1], stack) || !stack[0].isTensor()) return false;
    stack.emplace_back();  // the states
    if (!OperatorCall::append_list(parameters.data(), parameters.size(), stack)) return false;
    const at::Tensor input = stack[0].toTensor();
    if (input.is_nested() || input.dim() != 3 || input.size(2) != states.input_size ||
        input.scalar_type() != stack[2].toListRef()[0].toTensor().scalar_type()) {
      return false;
    }
    const at::Tensor zeros =
        at::zeros({states.layers, input.size(states.batch_dim), states.hidden_size}, input.options());
    if (states.count == 1) {
      stack[1] = zeros;
    } else {
      stack[1] = c10::List<at::Tensor>{zeros, zeros};
    }
    return run_without_lock(op, stack);
  }

 private:
  bool has_any(PyObject* module) const {
    return std::any_of(absent.begin(), absent.end(), [&](py::handle name) { return find(module, name.ptr()); });
  }
};

struct SequenceCall {
  static constexpr const char* kName = "fastvision.SequenceCall";

  struct Step {
    OperatorCall op;
    std::vector<std::pair<py::handle, py::tuple>> sources;
    bool folds;
  };

  std::vector<Step> steps;
  bool folds;  // any of them

  bool run(PyObject* const* arguments, size_t count, c10::Stack& stack) const {
    if (count != 1 || (folds && at::GradMode::is_enabled())) return false;
    c10::SmallVector<c10::Stack, 8> stacks(steps.size());
    for (size_t i = 0; i < steps.size(); ++i) {
      const Step& step = steps[i];
      stacks[i] = step.op.stack();
      if (i > 0) {
        stacks[i].emplace_back();  // the result of the step before
      } else if (!step.op.append(arguments[0], stacks[0])) {
        return false;
      }
      for (const auto& [module, names] : step.sources) {
        const py::object attributes = attributes_of(module.ptr());
        if (!append_parameters(step.op, attributes.ptr(), names, stacks[i])) return false;
      }
    }
    const py::gil_scoped_release no_gil;  // once: with several clients each release may hand the lock over
    for (size_t i = 0; i < steps.size(); ++i) {
      if (i > 0) stacks[i][0] = std::move(stacks[i - 1][0]);
      if (steps[i].folds && stacks[i][0].toTensor().dim() != 4) return false;
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
  const bool is_nested = std::is_same_v<Call, RecurrentCall> && stack.size() > 2;
  return is_nested ? OperatorCall::nested_results(stack) : OperatorCall::results(stack);
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
  return function_of(PreparedCall{{name, tensors, options}}, otherwise);
}

py::object prepare_module_call(const OperatorName& name, size_t tensors, const py::tuple& names,
                               const py::dict& options, const py::dict& attributes, const py::function& otherwise) {
  return function_of(ModuleCall{{name, tensors, options}, names, attributes_from(attributes)}, otherwise);
}

py::object prepare_recurrent_call(const OperatorName& name, const py::tuple& names, const py::dict& options,
                                  const py::dict& attributes, const py::tuple& absent, const RecurrentStates& states,
                                  const py::function& otherwise) {
  if (names.empty() || states.batch_dim < 0 || states.batch_dim > 1) {
    throw py::value_error("names, batch_dim: expected parameters, and 0 or 1");
  }
  return function_of(RecurrentCall{{name, 3, options}, names, attributes_from(attributes), absent, states}, otherwise);
}

py::object prepare_sequence(const std::vector<SequenceStep>& steps, const py::function& otherwise) {
  if (steps.empty()) throw py::value_error("steps: expected at least one");
  SequenceCall call{{}, /*folds=*/false};
  py::list modules;
  for (const auto& [name, options, sources, folds] : steps) {
    size_t tensors = 1;
    for (const auto& [module, names] : sources) {
      tensors += names.size();
      modules.append(module);
    }
    call.steps.push_back({{name, tensors, options}, {sources.begin(), sources.end()}, folds});
    call.folds |= folds;
  }
  return function_of(std::move(call), otherwise, py::tuple(modules));
}

}  // namespace fastvision

// Operators as Python functions, with their options fixed.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace fastvision {

// A function of the operator's first `tensors` arguments, as of OperatorCall. Whatever torch.ops treats specially
// (subclasses of Tensor, torch function modes) and wrong arguments it hands to `otherwise`.
pybind11::object prepare_call(const std::string& name, size_t tensors, const pybind11::dict& options,
                              pybind11::function otherwise);

// A function of a module and the operator's first `inputs` arguments. Those that follow them are the parameters or
// buffers of the module called `names`, as they are at the call. `options` hold as long as each of `attributes` is in
// the module's __dict__ with that value; then, or where the other function would, it calls `otherwise`, with the same
// arguments.
pybind11::object prepare_module_call(const std::string& name, size_t inputs, const pybind11::tuple& names,
                                     const pybind11::dict& options, const pybind11::dict& attributes,
                                     pybind11::function otherwise);

}  // namespace fastvision

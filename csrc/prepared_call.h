// Calls of operators from Python whose options are known before.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace fastvision {

// A function of the operator's first `tensors` arguments, each a Tensor, None or a list of Tensors, that calls it with
// `options` for the others. It goes through the dispatcher as torch.ops does, but converts options once and looks at no
// overloads. Whatever torch.ops treats specially (subclasses of Tensor, torch function modes) and wrong arguments it
// hands to `otherwise`.
pybind11::object prepare_call(const std::string& name, size_t tensors, const pybind11::dict& options,
                              pybind11::function otherwise);

}  // namespace fastvision

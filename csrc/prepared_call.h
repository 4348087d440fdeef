// Operators as Python functions, with their options fixed.
#pragma once

#include <pybind11/pybind11.h>

#include <tuple>
#include <vector>

#include "operator_call.h"

namespace fastvision {

// A function of the operator's first `tensors` arguments, as of OperatorCall. Whatever torch.ops treats specially
// (subclasses of Tensor, torch function modes) and wrong arguments it hands to `otherwise`.
pybind11::object prepare_call(const OperatorName& name, size_t tensors, const pybind11::dict& options,
                              const pybind11::function& otherwise);

// A function of a module and the first of the operator's `tensors` arguments. The last of them are the parameters of
// the module called `names`, as they are at the call. `options` hold as long as each of `attributes` is in the module's
// __dict__ with that value; else, and where the other function would, it calls `otherwise`, with the same arguments.
pybind11::object prepare_module_call(const OperatorName& name, size_t tensors, const pybind11::tuple& names,
                                     const pybind11::dict& options, const pybind11::dict& attributes,
                                     const pybind11::function& otherwise);

struct RecurrentStates {
  int64_t count;   // 1: h, or 2: h and c
  int64_t layers;  // times directions
  int64_t input_size, hidden_size;
  int64_t batch_dim;  // of the input
};

// A function of a module and an input (3 dimensions) for an operator of input, states and the list of parameters
// `names`, with states of zeros; its results are output and states. As prepare_module_call, and there must be none of
// `absent` in the module's __dict__.
pybind11::object prepare_recurrent_call(const OperatorName& name, const pybind11::tuple& names,
                                        const pybind11::dict& options, const pybind11::dict& attributes,
                                        const pybind11::tuple& absent, const RecurrentStates& states,
                                        const pybind11::function& otherwise);

// Modules, and of each the names of its parameters and buffers that an operator takes.
using Sources = std::vector<std::pair<pybind11::object, pybind11::tuple>>;

// An operator of one input, the options that follow its tensors, where those come from that follow the input, and
// whether it stands for its layers only without gradients, and on images in four dimensions.
using SequenceStep = std::tuple<OperatorName, pybind11::dict, Sources, bool>;

// A function of an input that does all steps, each on the result of the one before, or calls `otherwise`.
pybind11::object prepare_sequence(const std::vector<SequenceStep>& steps, const pybind11::function& otherwise);

}  // namespace fastvision

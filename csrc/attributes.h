// What Python objects, modules above all, have in their __dict__.
#pragma once

#include <pybind11/pybind11.h>

namespace fastvision {

// The __dict__ of an object. Raises AttributeError where it has none.
inline pybind11::object attributes_of(PyObject* object) {
  PyObject* dict = PyObject_GenericGetDict(object, nullptr);
  if (!dict) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(dict);
}

// The value of a key, borrowed; null where there is none.
inline PyObject* find(PyObject* dict, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(dict, key);
  if (!value && PyErr_Occurred()) throw pybind11::error_already_set();
  return value;
}

inline bool are_equal(PyObject* value, PyObject* expected) {
  if (value == expected) return true;
  if (PyDict_Check(value) && PyDict_Check(expected) && PyDict_GET_SIZE(value) == 0) {
    return PyDict_GET_SIZE(expected) == 0;
  }
  const auto held = pybind11::reinterpret_borrow<pybind11::object>(value);  // a comparison may run anything
  const int equal = PyObject_RichCompareBool(value, expected, Py_EQ);
  if (equal < 0) throw pybind11::error_already_set();
  return equal;
}

}  // namespace fastvision

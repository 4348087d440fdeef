#include "unchanged.h"

#include "attributes.h"

namespace py = pybind11;

namespace fastvision {
namespace {

// The function's own object is a tuple of these tuples, so that Python's collector sees what it refers to. `checked`
// has seen their types and sizes.
enum Record : uint8_t { kModules, kTypes, kStates, kParents };
enum State : uint8_t { kModule, kNames, kValues, kAbsent };
enum Parent : uint8_t { kContainer, kChildren };

PyObject* item(PyObject* tuple, Py_ssize_t i) {
  return PyTuple_GET_ITEM(tuple, i);
}

bool holds(PyObject* state) {
  const py::object dict = attributes_of(item(state, kModule));
  PyObject *names = item(state, kNames), *values = item(state, kValues), *absent = item(state, kAbsent);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(absent); ++i) {
    if (find(dict.ptr(), item(absent, i))) return false;
  }
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); ++i) {
    PyObject* value = find(dict.ptr(), item(names, i));
    if (!value || !are_equal(value, item(values, i))) return false;
  }
  return true;
}

bool has_children(PyObject* parent) {
  static PyObject* const name = PyUnicode_InternFromString("_modules");
  const py::object dict = attributes_of(item(parent, kContainer));
  PyObject* modules = find(dict.ptr(), name);
  PyObject* children = item(parent, kChildren);
  if (!modules || !PyDict_Check(modules) || PyDict_GET_SIZE(modules) != PyTuple_GET_SIZE(children)) return false;
  Py_ssize_t position = 0;
  PyObject *key, *child;
  for (Py_ssize_t i = 0; PyDict_Next(modules, &position, &key, &child); ++i) {
    if (child != item(children, i)) return false;
  }
  return true;
}

template <class F>
bool all_of(PyObject* tuple, const F& is_true) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i) {
    if (!is_true(item(tuple, i))) return false;
  }
  return true;
}

bool is_unchanged(PyObject* record) {
  PyObject *modules = item(record, kModules), *types = item(record, kTypes);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(modules); ++i) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(item(modules, i))) != item(types, i)) return false;
  }
  return all_of(item(record, kStates), holds) && all_of(item(record, kParents), has_children);
}

PyObject* call(PyObject* record, PyObject*) {
  try {
    return PyBool_FromLong(is_unchanged(record));
  } catch (py::error_already_set& error) {
    error.restore();
    return nullptr;
  }
}

PyMethodDef method{"unchanged", &call, METH_NOARGS, nullptr};

py::tuple checked(const py::handle& entry, size_t size) {
  auto tuple = py::cast<py::tuple>(entry);
  if (tuple.size() != size) throw py::value_error("unchanged: expected a tuple of " + std::to_string(size));
  return tuple;
}

}  // namespace

py::object unchanged(const py::tuple& modules, const py::tuple& types, const py::tuple& states,
                     const py::tuple& parents) {
  checked(types, modules.size());
  for (const py::handle& state : states) {
    const py::tuple entry = checked(state, 4);
    checked(entry[kValues], py::cast<py::tuple>(entry[kNames]).size());
    py::cast<py::tuple>(entry[kAbsent]);
  }
  for (const py::handle& parent : parents) py::cast<py::tuple>(checked(parent, 2)[kChildren]);
  const py::tuple record = py::make_tuple(modules, types, states, parents);
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, record.ptr()));
}

}  // namespace fastvision

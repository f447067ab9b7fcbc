// What the files of the native module share: the Python object of a tensor, and how C++ failures
// become Python exceptions. Hot paths are raw CPython calls; pybind11 binds what is called rarely.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <memory>
#include <utility>

#include "core/ops/ops.h"

namespace bessemer::python {

/// A tensor as Python sees it. Several objects may stand for one tensor; `hash` is the tensor's.
struct PyTensor {
  PyObject_HEAD Tensor tensor;
  PyObject* weak_references;
};
extern PyTypeObject tensor_type;

inline bool is_tensor(PyObject* object) { return Py_TYPE(object) == &tensor_type; }
inline const Tensor& tensor_of(PyObject* object) {
  return reinterpret_cast<PyTensor*>(object)->tensor;
}
/// A new object for the tensor; None for an undefined one.
PyObject* wrap(Tensor tensor);

/// Thrown where the Python error is already set.
struct PythonError {};

/// Sets the Python error for the C++ exception being handled.
void set_python_error() noexcept;

/// Runs `body`, which returns a new reference; C++ exceptions become Python ones.
template <class Body>
inline PyObject* guarded(Body&& body) {
  try {
    return body();
  } catch (...) {
    set_python_error();
    return nullptr;
  }
}
/// The same for slots that answer -1 on failure.
template <class Body>
inline int guarded_int(Body&& body) {
  try {
    return body();
  } catch (...) {
    set_python_error();
    return -1;
  }
}

struct Decref {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
/// An owned reference.
using Owned = std::unique_ptr<PyObject, Decref>;
/// Takes a new reference; throws PythonError when the call that made it failed.
inline Owned own(PyObject* object) {
  if (!object) throw PythonError{};
  return Owned(object);
}
inline void check_python(bool ok) {
  if (!ok) throw PythonError{};
}

/// UTF-8 of a str; throws TypeError naming `what` for anything else.
std::string text_of(PyObject* object, const char* what);

template <class Function>
inline PyCFunction as_method(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

// --- the parts of the module; each adds what it has
// --------------------------------------------------
bool add_tensor_type(PyObject* module);   // Tensor and the functions that make one
bool add_operations(PyObject* module);    // one function a row, composites, op_rows()
bool add_autograd(PyObject* module);      // grad mode, gradients
bool add_environments(PyObject* module);  // EnvCore, VectorEnvCore, env_ids, env_spec
bool add_runtime(PyObject* module);       // threads, instruction set, memory

}  // namespace bessemer::python

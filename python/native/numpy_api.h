// NumPy's C API, one import for the whole module (numpy.cpp defines BESSEMER_IMPORT_NUMPY).
#pragma once

#include "python/native/native.h"

#define PY_ARRAY_UNIQUE_SYMBOL bessemer_numpy_api
#define NPY_NO_DEPRECATED_API NPY_1_23_API_VERSION
#ifndef BESSEMER_IMPORT_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>
#include <numpy/arrayscalars.h>

namespace bessemer::python {

/// NumPy's type number; -1 for bfloat16, which NumPy lacks.
int numpy_type(Dtype dtype);
/// False where Bessemer has no such dtype.
bool dtype_of_numpy(int type, Dtype& dtype);

inline PyArrayObject* as_array(PyObject* object) {
  return reinterpret_cast<PyArrayObject*>(object);
}

/// A new array that owns its elements.
inline PyObject* new_array(int ndim, const npy_intp* shape, int type) {
  return PyArray_SimpleNew(ndim, const_cast<npy_intp*>(shape), type);
}

}  // namespace bessemer::python

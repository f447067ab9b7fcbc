// The parts of the Tensor type, one file each; tensor_type.cpp puts them together.
#pragma once

#include <vector>

#include "python/native/native.h"

namespace bessemer::python {

extern PyNumberMethods tensor_number;  // tensor_number.cpp
PyObject* tensor_compare(PyObject* a, PyObject* b, int operation);

PyObject* tensor_get_item(PyObject* self, PyObject* key);  // tensor_index.cpp
int tensor_set_item(PyObject* self, PyObject* key, PyObject* value);

/// Methods of the parts, appended to the type's table.
void append_operation_methods(std::vector<PyMethodDef>& table);  // operations.cpp
void append_numpy_methods(std::vector<PyMethodDef>& table);      // numpy.cpp
void append_dlpack_methods(std::vector<PyMethodDef>& table);     // dlpack.cpp
void append_autograd_methods(std::vector<PyMethodDef>& table);   // autograd.cpp
void append_autograd_properties(std::vector<PyGetSetDef>& table);

/// A NumPy array over the tensor's memory. Where it can be written the storage counts as exposed.
PyObject* numpy_view(const Tensor& tensor);
/// The same, read-only.
PyObject* numpy_look(const Tensor& tensor);
bool add_numpy(PyObject* module);
bool add_dlpack(PyObject* module);

}  // namespace bessemer::python

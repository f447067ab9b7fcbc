// NumPy in and out: views of a tensor's memory, tensors over an array's memory, copies of
// array-likes.
#define BESSEMER_IMPORT_NUMPY
#include "python/native/numpy_api.h"

#include <cstring>

#include "autograd/engine.h"
#include "python/native/arguments.h"
#include "python/native/tensor_type.h"

namespace bessemer::python {

int numpy_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::boolean:
      return NPY_BOOL;
    case Dtype::u8:
      return NPY_UINT8;
    case Dtype::i8:
      return NPY_INT8;
    case Dtype::i32:
      return NPY_INT32;
    case Dtype::i64:
      return NPY_INT64;
    case Dtype::f16:
      return NPY_FLOAT16;
    case Dtype::bf16:
      return -1;
    case Dtype::f32:
      return NPY_FLOAT32;
    case Dtype::f64:
      return NPY_FLOAT64;
  }
  return -1;
}

bool dtype_of_numpy(int type, Dtype& dtype) {
  switch (type) {
    case NPY_BOOL:
      dtype = Dtype::boolean;
      return true;
    case NPY_UINT8:
      dtype = Dtype::u8;
      return true;
    case NPY_INT8:
      dtype = Dtype::i8;
      return true;
    case NPY_INT:
      dtype = Dtype::i32;
      return true;
    case NPY_LONG:
      dtype = sizeof(long) == 8 ? Dtype::i64 : Dtype::i32;
      return true;
    case NPY_LONGLONG:
      dtype = Dtype::i64;
      return true;
    case NPY_FLOAT16:
      dtype = Dtype::f16;
      return true;
    case NPY_FLOAT32:
      dtype = Dtype::f32;
      return true;
    case NPY_FLOAT64:
      dtype = Dtype::f64;
      return true;
    default:
      return false;
  }
}

namespace {

/// Somebody may rely on the elements as they are: the tensor takes part in gradients, or a recorded
/// operation holds it besides the one Python object. Then NumPy must not write to it.
bool must_stay(const Tensor& x) {
  return x.requires_grad() || x.impl()->storage->read_only ||
         x.impl()->refs.load(std::memory_order_relaxed) > 1;
}

PyObject* view_of(const Tensor& tensor, bool writable) {
  const int type = numpy_type(tensor.dtype());
  BESSEMER_CHECK(type >= 0, TypeError, "NumPy has no ", dtype_name(tensor.dtype()),
                 ": cast to float32 first");
  npy_intp shape[kMaxDims], strides[kMaxDims];
  const auto size = static_cast<npy_intp>(dtype_size(tensor.dtype()));
  for (int i = 0; i < tensor.ndim(); ++i) {
    shape[i] = tensor.shape()[i];
    strides[i] = tensor.strides()[i] * size;
    if (strides[i] == 0 && shape[i] > 1) writable = false;  // one element seen many times
  }
  if (writable) tensor.impl()->storage->exposed = true;
  Owned array = own(PyArray_New(&PyArray_Type, tensor.ndim(), shape, type, strides, tensor.raw(), 0,
                                writable ? NPY_ARRAY_WRITEABLE : 0, nullptr));
  check_python(PyArray_SetBaseObject(as_array(array.get()), own(wrap(tensor.detach())).release()) ==
               0);
  return array.release();
}

void release_array(void* context) {
  const PyGILState_STATE state = PyGILState_Ensure();
  Py_DECREF(static_cast<PyObject*>(context));
  PyGILState_Release(state);
}

/// A tensor over the array's memory; the array must be aligned, native, of a known type.
Tensor share(PyArrayObject* array) {
  Dtype dtype;
  BESSEMER_CHECK(
      dtype_of_numpy(PyArray_TYPE(array), dtype), TypeError,
      "there are no tensors of NumPy's type ",
      text_of(own(PyObject_Str(reinterpret_cast<PyObject*>(PyArray_DESCR(array)))).get(), "dtype"),
      ": bool, uint8, int8, int32, int64, float16, float32 and float64 are known");
  BESSEMER_CHECK(PyArray_NDIM(array) <= kMaxDims, ValueError, "a tensor has at most ", kMaxDims,
                 " dimensions, got ", PyArray_NDIM(array));
  Shape shape;
  int64_t strides[kMaxDims];
  const auto size = static_cast<npy_intp>(dtype_size(dtype));
  for (int i = 0; i < PyArray_NDIM(array); ++i) {
    shape.push(PyArray_DIM(array, i));
    BESSEMER_CHECK(PyArray_STRIDE(array, i) % size == 0, ValueError,
                   "the array's strides are not whole elements: copy it first");
    strides[i] = PyArray_STRIDE(array, i) / size;
  }
  Py_INCREF(reinterpret_cast<PyObject*>(array));
  Tensor tensor = Tensor::wrap(PyArray_DATA(array), dtype, shape, strides, release_array, array,
                               !PyArray_ISWRITEABLE(array));
  tensor.impl()->storage->exposed = true;
  return tensor;
}

PyObject* from_numpy(PyObject*, PyObject* object) {
  return guarded([&] {
    BESSEMER_CHECK(PyArray_Check(object), TypeError, "[from_numpy] expected a NumPy array, got ",
                   Py_TYPE(object)->tp_name);
    BESSEMER_CHECK(
        PyArray_ISBEHAVED_RO(as_array(object)), ValueError,
        "[from_numpy] the array is not aligned or not in native byte order: copy it first");
    return wrap(share(as_array(object)));
  });
}

PyObject* tensor_numpy(PyObject* self, PyObject*) {
  return guarded([&] { return numpy_view(tensor_of(self)); });
}

PyObject* tensor_look(PyObject* self, PyObject*) {
  return guarded([&] { return numpy_look(tensor_of(self)); });
}

PyObject* tensor_array(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&]() -> PyObject* {
    static const Signature signature = parse_signature("__array__", "dtype=None, copy=None");
    PyObject* slots[2];
    Owned rest;
    bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
    Owned array = own(numpy_view(tensor_of(self)));
    PyArray_Descr* wanted = nullptr;
    if (slots[0] != Py_None) check_python(PyArray_DescrConverter(slots[0], &wanted));
    const bool same = !wanted || wanted->type_num == PyArray_TYPE(as_array(array.get()));
    if (same && slots[1] != Py_True) {
      Py_XDECREF(wanted);
      return array.release();
    }
    if (slots[1] == Py_False) {
      Py_XDECREF(wanted);
      fail<ValueError>("a tensor of ", dtype_name(tensor_of(self).dtype()),
                       " cannot become an array of another type without a copy");
    }
    return PyArray_FromArray(as_array(array.get()), wanted,
                             NPY_ARRAY_ENSURECOPY | NPY_ARRAY_CARRAY);
  });
}

PyMethodDef functions[] = {
    {"from_numpy", from_numpy, METH_O,
     "from_numpy(array)\n--\n\nA tensor over the array's memory, without copying."},
    {nullptr, nullptr, 0, nullptr}};

/// Lists and scalars of floats are float32 tensors; arrays keep their type.
bool is_plain_data(PyObject* object) {
  return PyList_Check(object) || PyTuple_Check(object) || PyFloat_Check(object);
}

/// The dtype of the tensors inside nested lists, or of any other array in them; false when there is
/// none.
bool inner_dtype(PyObject* object, Dtype& dtype) {
  if (is_tensor(object)) {
    dtype = tensor_of(object).dtype();
    return true;
  }
  if (PyArray_Check(object) || PyArray_CheckScalar(object)) {
    return !PyFloat_CheckExact(object) && PyArray_Check(object) &&
           dtype_of_numpy(PyArray_TYPE(as_array(object)), dtype);
  }
  if ((PyList_Check(object) || PyTuple_Check(object)) && PySequence_Fast_GET_SIZE(object) > 0) {
    return inner_dtype(PySequence_Fast_GET_ITEM(object, 0), dtype);
  }
  return false;
}

}  // namespace

PyObject* numpy_view(const Tensor& tensor) { return view_of(tensor, !must_stay(tensor)); }
PyObject* numpy_look(const Tensor& tensor) { return view_of(tensor, false); }

Tensor tensor_from(PyObject* object, std::optional<Dtype> dtype) {
  const NoGrad guard;
  if (is_tensor(object)) {
    const Tensor& x = tensor_of(object);
    const Tensor out = Tensor::empty(x.sizes(), dtype.value_or(x.dtype()));
    assign(out, x.detach());
    return out;
  }
  BESSEMER_CHECK(object != Py_None && !PyUnicode_Check(object) && !PyDict_Check(object), TypeError,
                 "expected a number, nested lists or an array, got ", Py_TYPE(object)->tp_name);
  const Owned array(PyArray_FROM_OF(object, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_NOTSWAPPED));
  if (!array) {
    PyErr_Clear();
    fail<ValueError>("the nested lists are ragged or hold something that is not a number");
  }
  PyArrayObject* source = as_array(array.get());
  Dtype natural;
  if (PyArray_TYPE(source) == NPY_OBJECT) {
    fail<TypeError>("expected a number, nested lists or an array, got ", Py_TYPE(object)->tp_name);
  }
  const Tensor shared = share(source);
  if (!dtype && shared.dtype() == Dtype::f64 && is_plain_data(object) &&
      !(inner_dtype(object, natural) && natural == Dtype::f64)) {
    dtype = Dtype::f32;
  }
  const Tensor out = Tensor::empty(shared.sizes(), dtype.value_or(shared.dtype()));
  assign(out, shared);
  return out;
}

void append_numpy_methods(std::vector<PyMethodDef>& table) {
  table.push_back(
      {"numpy", tensor_numpy, METH_NOARGS,
       "numpy($self)\n--\n\nThe elements as a NumPy array over the same memory; read-only when "
       "the tensor requires a gradient."});
  table.push_back({"_look", tensor_look, METH_NOARGS, nullptr});
  table.push_back({"__array__", as_method(tensor_array), METH_FASTCALL | METH_KEYWORDS, nullptr});
}

bool add_numpy(PyObject* module) {
  return _import_array() >= 0 && PyModule_AddFunctions(module, functions) == 0;
}

}  // namespace bessemer::python

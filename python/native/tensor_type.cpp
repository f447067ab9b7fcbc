// The Tensor type: life cycle, properties, conversions to Python values, and the functions that
// make one.
#include "python/native/tensor_type.h"

#include <cstddef>

#include <cstring>

#include "autograd/engine.h"
#include "python/native/arguments.h"

namespace bessemer::python {
namespace {

// Objects come and go with every operation: dead ones wait here, chained through weak_references.
constexpr int kFreeObjects = 256;
PyTensor* free_objects = nullptr;
int free_count = 0;

PyObject* dtype_names[kDtypes];

void tensor_free(PyObject* self) {
  auto* object = reinterpret_cast<PyTensor*>(self);
  if (object->weak_references) PyObject_ClearWeakRefs(self);
  object->tensor.~Tensor();
  if (free_count < kFreeObjects) {
    object->weak_references = reinterpret_cast<PyObject*>(free_objects);
    free_objects = object;
    ++free_count;
  } else {
    PyObject_Free(self);
  }
}

PyObject* make_shape(std::span<const int64_t> sizes) {
  Owned tuple = own(PyTuple_New(static_cast<Py_ssize_t>(sizes.size())));
  for (size_t i = 0; i < sizes.size(); ++i) {
    PyTuple_SET_ITEM(tuple.get(), i, own(PyLong_FromLongLong(sizes[i])).release());
  }
  return tuple.release();
}

PyObject* get_shape(PyObject* self, void*) {
  return guarded([&] { return make_shape(tensor_of(self).shape()); });
}
PyObject* get_strides(PyObject* self, void*) {
  return guarded([&] { return make_shape(tensor_of(self).strides()); });
}
PyObject* get_dtype(PyObject* self, void*) {
  return Py_NewRef(dtype_object(tensor_of(self).dtype()));
}
PyObject* get_ndim(PyObject* self, void*) { return PyLong_FromLong(tensor_of(self).ndim()); }
PyObject* get_size(PyObject* self, void*) { return PyLong_FromLongLong(tensor_of(self).numel()); }
PyObject* get_nbytes(PyObject* self, void*) {
  const Tensor& x = tensor_of(self);
  return PyLong_FromLongLong(x.numel() * static_cast<int64_t>(dtype_size(x.dtype())));
}
PyObject* get_device(PyObject*, void*) { return PyUnicode_InternFromString("cpu"); }
PyObject* get_priority(PyObject*, void*) { return PyFloat_FromDouble(1000); }
PyObject* get_transposed(PyObject* self, void*) {
  return guarded([&] {
    const Tensor& x = tensor_of(self);
    Dims dims;
    dims.count = x.ndim();
    for (int i = 0; i < dims.count; ++i) dims.dim[i] = dims.count - 1 - i;
    return wrap(permute(x, dims));
  });
}

/// The one element as Python number.
PyObject* item_of(const Tensor& x) {
  BESSEMER_CHECK(x.numel() == 1, ValueError, "[item] a tensor of shape ", x.shape(),
                 " does not hold exactly one element");
  if (x.dtype() == Dtype::boolean) return PyBool_FromLong(*static_cast<const uint8_t*>(x.raw()));
  if (x.dtype() == Dtype::i64) return PyLong_FromLongLong(*static_cast<const int64_t*>(x.raw()));
  if (dtype_is_integer(x.dtype())) return PyLong_FromLong(static_cast<long>(x.item()));
  return PyFloat_FromDouble(x.item());
}
PyObject* tensor_item(PyObject* self, PyObject*) {
  return guarded([&] { return item_of(tensor_of(self)); });
}

PyObject* tensor_list(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    const Tensor& x = tensor_of(self);
    if (x.ndim() == 0) return item_of(x);
    const bool half = x.dtype() == Dtype::f16 || x.dtype() == Dtype::bf16;
    const NoGrad guard;
    const Owned array = own(numpy_look(half ? cast(x, Dtype::f32) : x));
    return PyObject_CallMethod(array.get(), "tolist", nullptr);
  });
}

PyObject* tensor_repr(PyObject* self) {
  return guarded([&]() -> PyObject* {
    static PyObject* function = nullptr;
    if (!function) {
      const Owned module = own(PyImport_ImportModule("bessemer._format"));
      function = own(PyObject_GetAttrString(module.get(), "tensor_text")).release();
    }
    return PyObject_CallOneArg(function, self);
  });
}

Py_hash_t tensor_hash(PyObject* self) {
  return static_cast<Py_hash_t>(reinterpret_cast<uintptr_t>(tensor_of(self).impl()) >> 4);
}

Py_ssize_t tensor_length(PyObject* self) {
  const Tensor& x = tensor_of(self);
  if (x.ndim() == 0) {
    PyErr_SetString(PyExc_TypeError, "a 0-d tensor has no length");
    return -1;
  }
  return x.shape()[0];
}

PyObject* tensor_sequence_item(PyObject* self, Py_ssize_t i) {
  return guarded([&] {
    const Tensor& x = tensor_of(self);
    BESSEMER_CHECK(x.ndim() > 0, TypeError, "a 0-d tensor cannot be iterated or indexed");
    BESSEMER_CHECK(i >= 0 && i < x.shape()[0], IndexError, "index ", i,
                   " is out of range for dimension 0 of size ", x.shape()[0]);
    return wrap(select(x, 0, i));
  });
}

PyObject* tensor_iterate(PyObject* self) {
  if (tensor_of(self).ndim() == 0) {
    PyErr_SetString(PyExc_TypeError, "a 0-d tensor cannot be iterated");
    return nullptr;
  }
  return PySeqIter_New(self);
}

PyObject* tensor_detach(PyObject* self, PyObject*) {
  return guarded([&] { return wrap(tensor_of(self).detach()); });
}

PyObject* tensor_copy(PyObject* self, PyObject*) {
  return guarded([&] {
    const Tensor& x = tensor_of(self);
    // Multiplying by one would promote bool; an assignment keeps every dtype and copies strides
    // away.
    Tensor out = Tensor::empty(x.sizes(), x.dtype());
    assign(out, x.detach());
    return wrap(std::move(out));
  });
}

PyObject* tensor_deep_copy(PyObject* self, PyObject*) {
  return guarded([&] {
    const Tensor& x = tensor_of(self);
    Tensor out = Tensor::empty(x.sizes(), x.dtype());
    assign(out, x.detach());
    if (x.requires_grad()) set_requires_grad(out);
    return wrap(std::move(out));
  });
}

PyObject* tensor_reduce(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    const Tensor& x = tensor_of(self);
    const NoGrad guard;
    const Tensor dense = contiguous(x);
    static PyObject* rebuild = nullptr;
    if (!rebuild) {
      const Owned module = own(PyImport_ImportModule("bessemer._native"));
      rebuild = own(PyObject_GetAttrString(module.get(), "_rebuild_tensor")).release();
    }
    const Owned shape = own(make_shape(x.shape()));
    const auto bytes =
        static_cast<Py_ssize_t>(dense.numel()) * static_cast<Py_ssize_t>(dtype_size(dense.dtype()));
    return Py_BuildValue(
        "O(Ny#O)", rebuild, own(Py_NewRef(dtype_object(x.dtype()))).release(),
        static_cast<const char*>(dense.raw()), bytes,
        own(Py_BuildValue("(OO)", shape.get(), x.requires_grad() ? Py_True : Py_False)).get());
  });
}

PyObject* rebuild_tensor(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&] {
    BESSEMER_CHECK(count == 3 && PyBytes_Check(args[1]) && PyTuple_Check(args[2]) &&
                       PyTuple_GET_SIZE(args[2]) == 2,
                   ValueError, "damaged pickle of a tensor");
    Shape shape;
    shape.ndim = integers_from(PyTuple_GET_ITEM(args[2], 0), shape.dim, "shape");
    const Tensor out = Tensor::empty(shape, dtype_from(args[0]));
    const auto bytes = static_cast<size_t>(out.numel()) * dtype_size(out.dtype());
    BESSEMER_CHECK(static_cast<size_t>(PyBytes_GET_SIZE(args[1])) == bytes, ValueError,
                   "damaged pickle of a tensor: ", PyBytes_GET_SIZE(args[1]), " bytes for shape ",
                   shape.dims());
    if (bytes) std::memcpy(out.raw(), PyBytes_AS_STRING(args[1]), bytes);
    if (PyTuple_GET_ITEM(args[2], 1) == Py_True) set_requires_grad(out);
    return wrap(out);
  });
}

// --- creation
// ----------------------------------------------------------------------------------------------

/// Keyword tail that the makers share: dtype and requires_grad.
PyObject* finish_made(Tensor tensor, PyObject* requires_grad) {
  const int wanted = PyObject_IsTrue(requires_grad);
  check_python(wanted >= 0);
  if (wanted) set_requires_grad(tensor);
  return wrap(std::move(tensor));
}

Dtype dtype_or(PyObject* object, Dtype fallback) {
  return object == Py_None ? fallback : dtype_from(object);
}

PyObject* make_tensor(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&] {
    static const Signature signature =
        parse_signature("tensor", "data, dtype=None, requires_grad=False");
    PyObject* slots[3];
    Owned rest;
    bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
    PyObject* data = slots[0];
    if (slots[1] == Py_None && PyFloat_CheckExact(data)) {
      return finish_made(Tensor::scalar(PyFloat_AS_DOUBLE(data)), slots[2]);
    }
    std::optional<Dtype> dtype;
    if (slots[1] != Py_None) dtype = dtype_from(slots[1]);
    return finish_made(tensor_from(data, dtype), slots[2]);
  });
}

enum class Filled { zeros, ones, empty };
template <Filled Kind>
PyObject* make_filled(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&] {
    constexpr const char* op = Kind == Filled::zeros  ? "zeros"
                               : Kind == Filled::ones ? "ones"
                                                      : "empty";
    static const Signature signature =
        parse_signature(op, "shape, dtype='float32', requires_grad=False");
    // zeros(2, 3) as well as zeros((2, 3)).
    Py_ssize_t sizes = 0;
    while (sizes < count && PyLong_CheckExact(args[sizes])) ++sizes;
    PyObject* slots[3];
    Owned rest;
    Shape shape;
    if (sizes == count && count > 1) {
      for (Py_ssize_t i = 0; i < count; ++i) shape.push(integer_from(args[i], op));
      PyObject* first = Py_None;
      std::vector<PyObject*> moved{first};
      const Py_ssize_t keywords = names ? PyTuple_GET_SIZE(names) : 0;
      for (Py_ssize_t i = 0; i < keywords; ++i) moved.push_back(args[count + i]);
      bind_arguments(signature, nullptr, moved.data(), 1, names, slots, false, rest);
    } else {
      bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
      shape.ndim = integers_from(slots[0], shape.dim, op);
    }
    const Dtype dtype = dtype_from(slots[1]);
    return finish_made(Kind == Filled::zeros  ? Tensor::zeros(shape, dtype)
                       : Kind == Filled::ones ? Tensor::ones(shape, dtype)
                                              : Tensor::empty(shape, dtype),
                       slots[2]);
  });
}

PyObject* make_full(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&] {
    static const Signature signature =
        parse_signature("full", "shape, value, dtype=None, requires_grad=False");
    PyObject* slots[4];
    Owned rest;
    bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
    Shape shape;
    shape.ndim = integers_from(slots[0], shape.dim, "full");
    const Dtype natural = PyBool_Check(slots[1])   ? Dtype::boolean
                          : PyLong_Check(slots[1]) ? Dtype::i64
                                                   : Dtype::f32;
    const Tensor like = Tensor::empty({}, dtype_or(slots[2], natural));
    Tensor out = Tensor::empty(shape, like.dtype());
    assign(out, number_beside(like, slots[1]));
    return finish_made(std::move(out), slots[3]);
  });
}

PyObject* make_arange(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&] {
    static const Signature signature =
        parse_signature("arange", "start, stop=None, step=1, dtype='int64'");
    PyObject* slots[4];
    Owned rest;
    bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
    int64_t start = integer_from(slots[0], "[arange] start"), stop = start;
    if (slots[1] == Py_None) {
      start = 0;
    } else {
      stop = integer_from(slots[1], "[arange] stop");
    }
    const int64_t step = integer_from(slots[2], "[arange] step");
    BESSEMER_CHECK(step != 0, ValueError, "[arange] step is 0");
    const int64_t length =
        step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step;
    Tensor out = Tensor::empty({length > 0 ? length : 0}, Dtype::i64);
    for (int64_t i = 0; i < out.numel(); ++i) out.data<int64_t>()[i] = start + i * step;
    const Dtype dtype = dtype_from(slots[3]);
    return wrap(dtype == Dtype::i64 ? out : cast(out, dtype));
  });
}

PyObject* tensor_new(PyTypeObject*, PyObject* args, PyObject* keywords) {
  const Owned module(PyImport_ImportModule("bessemer._native"));
  if (!module) return nullptr;
  const Owned make(PyObject_GetAttrString(module.get(), "tensor"));
  return make ? PyObject_Call(make.get(), args, keywords) : nullptr;
}

PyMappingMethods tensor_mapping = {tensor_length, tensor_get_item, tensor_set_item};
PySequenceMethods make_sequence() {
  PySequenceMethods methods{};
  methods.sq_length = tensor_length;
  methods.sq_item = tensor_sequence_item;
  return methods;
}
PySequenceMethods tensor_sequence = make_sequence();

std::vector<PyMethodDef> methods;
std::vector<PyGetSetDef> properties;

PyMethodDef functions[] = {
    {"tensor", as_method(make_tensor), METH_FASTCALL | METH_KEYWORDS,
     "tensor(data, dtype=None, requires_grad=False)\n--\n\n"
     "A tensor from a number, nested lists or an array, copied. Floats in lists become float32."},
    {"zeros", as_method(make_filled<Filled::zeros>), METH_FASTCALL | METH_KEYWORDS,
     "zeros(shape, dtype='float32', requires_grad=False)\n--\n\nAll zero."},
    {"ones", as_method(make_filled<Filled::ones>), METH_FASTCALL | METH_KEYWORDS,
     "ones(shape, dtype='float32', requires_grad=False)\n--\n\nAll one."},
    {"empty", as_method(make_filled<Filled::empty>), METH_FASTCALL | METH_KEYWORDS,
     "empty(shape, dtype='float32', requires_grad=False)\n--\n\nElements that nobody has written "
     "yet."},
    {"full", as_method(make_full), METH_FASTCALL | METH_KEYWORDS,
     "full(shape, value, dtype=None, requires_grad=False)\n--\n\nAll `value`."},
    {"arange", as_method(make_arange), METH_FASTCALL | METH_KEYWORDS,
     "arange(start, stop=None, step=1, dtype='int64')\n--\n\nstart, start + step, ... below stop."},
    {"_rebuild_tensor", as_method(rebuild_tensor), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

PyTypeObject tensor_type = {PyVarObject_HEAD_INIT(nullptr, 0)};

PyObject* dtype_object(Dtype dtype) { return dtype_names[static_cast<int>(dtype)]; }

PyObject* wrap(Tensor tensor) {
  if (!tensor.defined()) return Py_NewRef(Py_None);
  PyTensor* object = free_objects;
  if (object) {
    free_objects = reinterpret_cast<PyTensor*>(object->weak_references);
    --free_count;
  } else {
    object = static_cast<PyTensor*>(PyObject_Malloc(sizeof(PyTensor)));
    if (!object) return PyErr_NoMemory();
  }
  PyObject_Init(reinterpret_cast<PyObject*>(object), &tensor_type);
  new (&object->tensor) Tensor(std::move(tensor));
  object->weak_references = nullptr;
  return reinterpret_cast<PyObject*>(object);
}

bool add_tensor_type(PyObject* module) {
  for (int i = 0; i < kDtypes; ++i) {
    dtype_names[i] =
        PyUnicode_InternFromString(std::string(dtype_name(static_cast<Dtype>(i))).c_str());
    if (!dtype_names[i]) return false;
  }
  methods = {
      {"item", tensor_item, METH_NOARGS, "item($self)\n--\n\nThe only element as a Python number."},
      {"tolist", tensor_list, METH_NOARGS, "tolist($self)\n--\n\nNested lists of Python numbers."},
      {"detach", tensor_detach, METH_NOARGS,
       "detach($self)\n--\n\nThe same elements without their history."},
      {"copy", tensor_copy, METH_NOARGS, "copy($self)\n--\n\nA dense copy without history."},
      {"__copy__", tensor_deep_copy, METH_NOARGS, nullptr},
      {"__deepcopy__", tensor_deep_copy, METH_O, nullptr},
      {"__reduce__", tensor_reduce, METH_NOARGS, nullptr},
  };
  append_operation_methods(methods);
  append_numpy_methods(methods);
  append_dlpack_methods(methods);
  append_autograd_methods(methods);
  methods.push_back({nullptr, nullptr, 0, nullptr});
  properties = {
      {"shape", get_shape, nullptr, "Sizes, as a tuple.", nullptr},
      {"strides", get_strides, nullptr, "Distance between neighbours, in elements.", nullptr},
      {"dtype", get_dtype, nullptr, "Name of the element type.", nullptr},
      {"ndim", get_ndim, nullptr, "Number of dimensions.", nullptr},
      {"size", get_size, nullptr, "Number of elements.", nullptr},
      {"nbytes", get_nbytes, nullptr, "Bytes of the elements.", nullptr},
      {"device", get_device, nullptr, "Where the elements are.", nullptr},
      {"T", get_transposed, nullptr, "Dimensions reversed (a view).", nullptr},
      {"__array_priority__", get_priority, nullptr, nullptr, nullptr},
  };
  append_autograd_properties(properties);
  properties.push_back({nullptr, nullptr, nullptr, nullptr, nullptr});

  tensor_type.tp_name = "bessemer.Tensor";
  tensor_type.tp_doc =
      "Tensor(data, dtype=None, requires_grad=False)\n--\n\n"
      "An n-dimensional array that remembers how it was computed.";
  tensor_type.tp_basicsize = sizeof(PyTensor);
  tensor_type.tp_flags = Py_TPFLAGS_DEFAULT;
  tensor_type.tp_new = tensor_new;
  tensor_type.tp_dealloc = tensor_free;
  tensor_type.tp_repr = tensor_repr;
  tensor_type.tp_hash = tensor_hash;
  tensor_type.tp_richcompare = tensor_compare;
  tensor_type.tp_as_number = &tensor_number;
  tensor_type.tp_as_mapping = &tensor_mapping;
  tensor_type.tp_as_sequence = &tensor_sequence;
  tensor_type.tp_iter = tensor_iterate;
  tensor_type.tp_methods = methods.data();
  tensor_type.tp_getset = properties.data();
  tensor_type.tp_weaklistoffset = offsetof(PyTensor, weak_references);
  return PyType_Ready(&tensor_type) == 0 &&
         PyModule_AddObjectRef(module, "Tensor", reinterpret_cast<PyObject*>(&tensor_type)) == 0 &&
         PyModule_AddFunctions(module, functions) == 0 && add_numpy(module) && add_dlpack(module);
}

}  // namespace bessemer::python

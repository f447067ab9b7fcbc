// Gradients: Tensor methods and module functions over autograd/engine.h.
#include "autograd/engine.h"

#include <vector>

#include "python/native/arguments.h"
#include "python/native/tensor_type.h"

namespace bessemer::python {
namespace {

PyObject* tensor_backward(PyObject* self, PyObject* const* args, Py_ssize_t count,
                          PyObject* names) {
  return guarded([&]() -> PyObject* {
    if (count == 0 && !names) {
      backward(tensor_of(self));
      Py_RETURN_NONE;
    }
    static const Signature signature =
        parse_signature("backward", "gradient=None, retain_graph=False, create_graph=False");
    PyObject* slots[3];
    Owned rest;
    bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
    const TensorArgument gradient = convert_tensor({signature, slots, 0});
    backward(tensor_of(self), gradient, convert_flag({signature, slots, 1}),
             convert_flag({signature, slots, 2}));
    Py_RETURN_NONE;
  });
}

PyObject* tensor_requires_grad(PyObject* self, PyObject* const* args, Py_ssize_t count,
                               PyObject* names) {
  return guarded([&] {
    static const Signature signature = parse_signature("requires_grad_", "required=True");
    PyObject* slots[1];
    Owned rest;
    bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
    set_requires_grad(tensor_of(self), convert_flag({signature, slots, 0}));
    return Py_NewRef(self);
  });
}

PyObject* get_requires_grad(PyObject* self, void*) {
  return PyBool_FromLong(tensor_of(self).requires_grad());
}
int put_requires_grad(PyObject* self, PyObject* value, void*) {
  return guarded_int([&] {
    BESSEMER_CHECK(value && PyBool_Check(value), TypeError, "requires_grad is True or False");
    set_requires_grad(tensor_of(self), value == Py_True);
    return 0;
  });
}
PyObject* get_is_leaf(PyObject* self, void*) {
  return PyBool_FromLong(!tensor_of(self).impl()->node);
}

PyObject* get_gradient(PyObject* self, void*) {
  return guarded([&] { return wrap(grad(tensor_of(self))); });
}
int put_gradient(PyObject* self, PyObject* value, void*) {
  return guarded_int([&] {
    if (!value || value == Py_None) {
      clear_grad(tensor_of(self));
    } else {
      BESSEMER_CHECK(is_tensor(value), TypeError, "grad is a tensor or None, got ",
                     Py_TYPE(value)->tp_name);
      set_grad(tensor_of(self), tensor_of(value));
    }
    return 0;
  });
}

/// One tensor or a sequence of them.
std::vector<Tensor> tensor_list(PyObject* object, const char* what) {
  if (is_tensor(object)) return {tensor_of(object)};
  BESSEMER_CHECK(PyList_Check(object) || PyTuple_Check(object), TypeError, "[grad] ", what,
                 ": expected a tensor or a list of tensors, got ", Py_TYPE(object)->tp_name);
  std::vector<Tensor> out;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); ++i) {
    PyObject* item = PySequence_Fast_GET_ITEM(object, i);
    BESSEMER_CHECK(is_tensor(item), TypeError, "[grad] ", what, ": expected a tensor, got ",
                   Py_TYPE(item)->tp_name);
    out.push_back(tensor_of(item));
  }
  return out;
}

PyObject* grad_function(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&] {
    static const Signature signature = parse_signature(
        "grad", "outputs, inputs, grad_outputs=None, retain_graph=False, create_graph=False");
    PyObject* slots[5];
    Owned rest;
    bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
    const std::vector<Tensor> outputs = tensor_list(slots[0], "outputs");
    const std::vector<Tensor> inputs = tensor_list(slots[1], "inputs");
    std::vector<Tensor> seeds;
    if (slots[2] != Py_None) seeds = tensor_list(slots[2], "grad_outputs");
    const std::vector<Tensor> result =
        gradients(outputs, inputs, seeds, convert_flag({signature, slots, 3}),
                  convert_flag({signature, slots, 4}));
    Owned tuple = own(PyTuple_New(static_cast<Py_ssize_t>(result.size())));
    for (size_t i = 0; i < result.size(); ++i) {
      PyTuple_SET_ITEM(tuple.get(), i, own(wrap(result[i])).release());
    }
    return tuple.release();
  });
}

PyObject* set_grad_mode(PyObject*, PyObject* on) {
  const bool before = current_mode & kModeGrad;
  if (on == Py_True) {
    current_mode |= kModeGrad;
  } else {
    current_mode &= static_cast<uint8_t>(~kModeGrad);
  }
  return PyBool_FromLong(before);
}
PyObject* is_grad_mode(PyObject*, PyObject*) { return PyBool_FromLong(current_mode & kModeGrad); }

PyMethodDef functions[] = {
    {"grad", as_method(grad_function), METH_FASTCALL | METH_KEYWORDS,
     "grad(outputs, inputs, grad_outputs=None, retain_graph=False, create_graph=False)\n--\n\n"
     "d(outputs)/d(inputs) as a tuple, None for inputs that do not matter; leaves are not "
     "touched."},
    {"_set_grad_mode", set_grad_mode, METH_O, nullptr},
    {"is_grad_enabled", is_grad_mode, METH_NOARGS,
     "is_grad_enabled()\n--\n\nWhether operations are recorded on this thread."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

void append_autograd_methods(std::vector<PyMethodDef>& table) {
  table.push_back({"backward", as_method(tensor_backward), METH_FASTCALL | METH_KEYWORDS,
                   "backward($self, gradient=None, retain_graph=False, create_graph=False)\n--\n\n"
                   "Adds d(self)/d(leaf) to the grad of every leaf it was computed from."});
  table.push_back(
      {"requires_grad_", as_method(tensor_requires_grad), METH_FASTCALL | METH_KEYWORDS,
       "requires_grad_($self, required=True)\n--\n\nAsks for a gradient; returns self."});
}

void append_autograd_properties(std::vector<PyGetSetDef>& table) {
  table.push_back({"requires_grad", get_requires_grad, put_requires_grad,
                   "Whether operations on it are recorded.", nullptr});
  table.push_back({"is_leaf", get_is_leaf, nullptr, "Whether nothing recorded made it.", nullptr});
  table.push_back(
      {"grad", get_gradient, put_gradient, "What backward() gathered, or None.", nullptr});
}

bool add_autograd(PyObject* module) { return PyModule_AddFunctions(module, functions) == 0; }

}  // namespace bessemer::python

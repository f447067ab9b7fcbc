// Operators of the Tensor type.
#include "python/native/arguments.h"
#include "python/native/numpy_api.h"
#include "python/native/tensor_type.h"

namespace bessemer::python {
namespace {

/// The other side of an operator as tensor; false where the operator should be left to it.
bool operand(PyObject* object, const Tensor& beside, TensorArgument& out) {
  if (is_tensor(object)) {
    out.tensor = &tensor_of(object);
    return true;
  }
  if (is_number(object)) {
    out.made = number_beside(beside, object);
    return true;
  }
  if (PyArray_Check(object)) {
    out.made = tensor_from(object);
    return true;
  }
  return false;
}

template <Tensor (*Function)(const Tensor&, const Tensor&)>
PyObject* binary(PyObject* a, PyObject* b) {
  return guarded([&]() -> PyObject* {
    if (is_tensor(a)) {
      if (is_tensor(b)) return wrap(Function(tensor_of(a), tensor_of(b)));
      TensorArgument right{nullptr, {}};
      if (!operand(b, tensor_of(a), right)) Py_RETURN_NOTIMPLEMENTED;
      return wrap(Function(tensor_of(a), right));
    }
    TensorArgument left{nullptr, {}};
    if (!operand(a, tensor_of(b), left)) Py_RETURN_NOTIMPLEMENTED;
    return wrap(Function(left, tensor_of(b)));
  });
}

/// a += b. In place where a is a buffer; where autograd has to see it, the result is a new tensor
/// and Python rebinds the name. A leaf that requires a gradient is refused: its update belongs in
/// no_grad().
template <Tensor (*Function)(const Tensor&, const Tensor&), int Sign>
PyObject* in_place(PyObject* self, PyObject* other) {
  return guarded([&]() -> PyObject* {
    const Tensor& a = tensor_of(self);
    TensorArgument b{nullptr, {}};
    if (!operand(other, a, b)) Py_RETURN_NOTIMPLEMENTED;
    const Tensor& right = b;
    if ((current_mode & kModeGrad) && (a.requires_grad() || right.requires_grad())) {
      BESSEMER_CHECK(
          !a.requires_grad() || a.impl()->node, ValueError,
          "a leaf that requires a gradient cannot be changed in place while gradients are "
          "recorded; use no_grad()");
      return wrap(Function(a, right));
    }
    BESSEMER_CHECK(promote(a.dtype(), right.dtype()) == a.dtype(), TypeError, "a ",
                   dtype_name(right.dtype()), " result does not fit into a ", dtype_name(a.dtype()),
                   " tensor in place");
    if constexpr (Sign != 0) {
      add_in_place(a, right, Sign);
    } else {
      const Tensor result = Function(a, right);
      BESSEMER_CHECK(result.dtype() == a.dtype(), TypeError, "a ", dtype_name(result.dtype()),
                     " result does not fit into a ", dtype_name(a.dtype()), " tensor in place");
      assign(a, result);
    }
    return Py_NewRef(self);
  });
}

PyObject* power(PyObject* a, PyObject* b, PyObject* modulus) {
  if (modulus != Py_None) Py_RETURN_NOTIMPLEMENTED;
  // Squares keep their sign rule and cost one product.
  if (is_tensor(a) && PyLong_CheckExact(b) && PyLong_AsLong(b) == 2) {
    return guarded([&] { return wrap(square(tensor_of(a))); });
  }
  if (PyErr_Occurred()) PyErr_Clear();
  return binary<static_cast<Tensor (*)(const Tensor&, const Tensor&)>(&bessemer::pow)>(a, b);
}

PyObject* floor_divide(PyObject* a, PyObject* b) {
  const Owned quotient(binary<&bessemer::div>(a, b));
  if (!quotient || !is_tensor(quotient.get())) return Py_XNewRef(quotient.get());
  return guarded([&] { return wrap(floor(tensor_of(quotient.get()))); });
}

PyObject* negative(PyObject* self) {
  return guarded([&] { return wrap(neg(tensor_of(self))); });
}
PyObject* positive(PyObject* self) { return Py_NewRef(self); }
PyObject* absolute(PyObject* self) {
  return guarded([&] { return wrap(bessemer::abs(tensor_of(self))); });
}
PyObject* invert(PyObject* self) {
  return guarded([&] {
    BESSEMER_CHECK(tensor_of(self).dtype() == Dtype::boolean, TypeError,
                   "~ is for bool tensors, got ", dtype_name(tensor_of(self).dtype()));
    return wrap(logical_not(tensor_of(self)));
  });
}

template <Tensor (*Function)(const Tensor&, const Tensor&)>
PyObject* logic(PyObject* a, PyObject* b) {
  for (PyObject* side : {a, b}) {
    if (is_tensor(side) && tensor_of(side).dtype() != Dtype::boolean) {
      PyErr_SetString(PyExc_TypeError, "& and | are for bool tensors");
      return nullptr;
    }
  }
  return binary<Function>(a, b);
}

int truth(PyObject* self) {
  return guarded_int([&] {
    const Tensor& x = tensor_of(self);
    BESSEMER_CHECK(x.numel() == 1, ValueError, "the truth of a tensor of shape ", x.shape(),
                   " is ambiguous: compare elements, or reduce it first");
    return x.item() != 0 ? 1 : 0;
  });
}

PyObject* to_float(PyObject* self) {
  return guarded([&] { return PyFloat_FromDouble(tensor_of(self).item()); });
}
PyObject* to_integer(PyObject* self) {
  return guarded([&] {
    const Tensor& x = tensor_of(self);
    if (x.dtype() == Dtype::i64 && x.numel() == 1) {
      return PyLong_FromLongLong(*static_cast<const int64_t*>(x.raw()));
    }
    return PyLong_FromDouble(x.item());
  });
}
PyObject* to_index(PyObject* self) {
  if (!dtype_is_integer(tensor_of(self).dtype()) || tensor_of(self).numel() != 1) {
    PyErr_SetString(PyExc_TypeError, "only an integer tensor of one element is an index");
    return nullptr;
  }
  return to_integer(self);
}

PyNumberMethods make_number() {
  PyNumberMethods number{};
  number.nb_add = binary<&bessemer::add>;
  number.nb_subtract = binary<&bessemer::sub>;
  number.nb_multiply = binary<&bessemer::mul>;
  number.nb_true_divide = binary<&bessemer::div>;
  number.nb_floor_divide = floor_divide;
  number.nb_power = power;
  number.nb_matrix_multiply = binary<&bessemer::matmul>;
  number.nb_negative = negative;
  number.nb_positive = positive;
  number.nb_absolute = absolute;
  number.nb_invert = invert;
  number.nb_and = logic<&bessemer::logical_and>;
  number.nb_or = logic<&bessemer::logical_or>;
  number.nb_bool = truth;
  number.nb_float = to_float;
  number.nb_int = to_integer;
  number.nb_index = to_index;
  number.nb_inplace_add = in_place<&bessemer::add, 1>;
  number.nb_inplace_subtract = in_place<&bessemer::sub, -1>;
  number.nb_inplace_multiply = in_place<&bessemer::mul, 0>;
  number.nb_inplace_true_divide = in_place<&bessemer::div, 0>;
  return number;
}

}  // namespace

PyNumberMethods tensor_number = make_number();

PyObject* tensor_compare(PyObject* a, PyObject* b, int operation) {
  switch (operation) {
    case Py_LT:
      return binary<&bessemer::lt>(a, b);
    case Py_LE:
      return binary<&bessemer::le>(a, b);
    case Py_EQ:
      return binary<&bessemer::eq>(a, b);
    case Py_NE:
      return binary<&bessemer::ne>(a, b);
    case Py_GT:
      return binary<&bessemer::gt>(a, b);
    default:
      return binary<&bessemer::ge>(a, b);
  }
}

}  // namespace bessemer::python

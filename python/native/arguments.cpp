#include "python/native/arguments.h"

#include <cstring>
#include <string>

#include "python/native/numpy_api.h"

namespace bessemer::python {
namespace {

PyObject* parse_literal(std::string_view text) {
  if (text == "None") return Py_NewRef(Py_None);
  if (text == "True") return Py_NewRef(Py_True);
  if (text == "False") return Py_NewRef(Py_False);
  if (text.front() == '\'') {
    return PyUnicode_InternFromString(std::string(text.substr(1, text.size() - 2)).c_str());
  }
  const std::string number(text);
  if (number.find_first_of(".e") != std::string::npos) {
    return PyFloat_FromDouble(PyOS_string_to_double(number.c_str(), nullptr, nullptr));
  }
  return PyLong_FromString(number.c_str(), nullptr, 10);
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

const char* type_name(PyObject* object) { return Py_TYPE(object)->tp_name; }

}  // namespace

Signature parse_signature(const char* op, const char* text) {
  Signature out{op, {}};
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    std::string_view one = trim(rest.substr(0, comma));
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    const size_t equals = one.find('=');
    Parameter parameter;
    parameter.name = PyUnicode_InternFromString(std::string(one.substr(0, equals)).c_str());
    if (equals != std::string_view::npos)
      parameter.fallback = parse_literal(one.substr(equals + 1));
    out.parameters.push_back(parameter);
  }
  return out;
}

void bind_arguments(const Signature& signature, PyObject* self, PyObject* const* args,
                    Py_ssize_t count, PyObject* keyword_names, PyObject** slots, bool collect_rest,
                    Owned& rest) {
  const auto& parameters = signature.parameters;
  const int total = static_cast<int>(parameters.size());
  int filled = 0;
  if (self) slots[filled++] = self;
  const Py_ssize_t room = total - filled;
  if (count > room || (collect_rest && count == room && PyLong_Check(args[count - 1]))) {
    BESSEMER_CHECK(collect_rest, TypeError, "[", signature.op, "] takes at most ", room,
                   " arguments, got ", count);
    for (Py_ssize_t i = 0; i < room - 1; ++i) slots[filled++] = args[i];
    rest = own(PyTuple_New(count - room + 1));
    for (Py_ssize_t i = room - 1; i < count; ++i) {
      PyTuple_SET_ITEM(rest.get(), i - room + 1, Py_NewRef(args[i]));
    }
    slots[filled++] = rest.get();
  } else {
    for (Py_ssize_t i = 0; i < count; ++i) slots[filled++] = args[i];
  }
  for (int i = filled; i < total; ++i) slots[i] = nullptr;
  if (keyword_names) {
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(keyword_names); ++k) {
      PyObject* name = PyTuple_GET_ITEM(keyword_names, k);
      int found = -1;
      for (int i = 0; i < total && found < 0; ++i) {
        if (parameters[i].name == name) found = i;
      }
      for (int i = 0; i < total && found < 0; ++i) {
        if (PyUnicode_Compare(parameters[i].name, name) == 0) found = i;
      }
      if (found < 0) {
        std::vector<std::string> names;
        for (const Parameter& p : parameters) names.push_back(text_of(p.name, "a parameter"));
        const std::string given = text_of(name, "a keyword");
        fail<TypeError>("[", signature.op, "] has no parameter '", given, "'",
                        did_you_mean(given, names));
      }
      BESSEMER_CHECK(!slots[found], TypeError, "[", signature.op, "] got '",
                     text_of(name, "a keyword"), "' twice");
      slots[found] = args[count + k];
    }
  }
  for (int i = 0; i < total; ++i) {
    if (!slots[i]) {
      slots[i] = parameters[i].fallback;
      BESSEMER_CHECK(slots[i], TypeError, "[", signature.op, "] needs the argument '",
                     text_of(parameters[i].name, "a parameter"), "'");
    }
  }
}

std::string ArgumentContext::where() const {
  return cat("[", signature.op, "] ", text_of(signature.parameters[index].name, "a parameter"));
}

bool is_number(PyObject* object) {
  return PyFloat_CheckExact(object) || PyLong_CheckExact(object) || PyBool_Check(object) ||
         PyFloat_Check(object) || PyLong_Check(object) || PyArray_IsScalar(object, Number) ||
         PyArray_IsScalar(object, Bool);
}

namespace {
Tensor integer_scalar(long long value, Dtype dtype) {
  if (dtype != Dtype::i64) return Tensor::scalar(static_cast<double>(value), dtype);
  Tensor out = Tensor::empty({}, Dtype::i64);
  *out.data<int64_t>() = value;
  return out;
}

Tensor number_as(PyObject* number, Dtype beside) {
  if (PyFloat_Check(number)) {
    return Tensor::scalar(PyFloat_AS_DOUBLE(number), dtype_is_float(beside) ? beside : Dtype::f32);
  }
  if (PyBool_Check(number) || PyArray_IsScalar(number, Bool)) {
    return Tensor::scalar(PyObject_IsTrue(number), beside);
  }
  if (PyLong_Check(number) || PyArray_IsScalar(number, Integer)) {
    const Owned whole = own(PyNumber_Index(number));
    if (dtype_is_float(beside)) {
      const double value = PyLong_AsDouble(whole.get());
      check_python(!(value == -1 && PyErr_Occurred()));
      return Tensor::scalar(value, beside);
    }
    const long long value = PyLong_AsLongLong(whole.get());
    check_python(!(value == -1 && PyErr_Occurred()));
    return integer_scalar(value, beside == Dtype::boolean ? Dtype::i64 : beside);
  }
  const double value = PyFloat_AsDouble(number);
  check_python(!(value == -1 && PyErr_Occurred()));
  return Tensor::scalar(value, dtype_is_float(beside) ? beside : Dtype::f32);
}
}  // namespace

Tensor number_beside(const Tensor& like, PyObject* number) {
  return number_as(number, like.dtype());
}

TensorArgument convert_tensor(const ArgumentContext& context) {
  PyObject* object = context.slots[context.index];
  if (is_tensor(object)) return {&tensor_of(object), {}};
  const Parameter& parameter = context.signature.parameters[context.index];
  if (object == Py_None && parameter.fallback == Py_None) return {nullptr, {}};
  if (is_number(object)) {
    // A number takes the dtype of the tensors beside it, floating ones first.
    const int total = static_cast<int>(context.signature.parameters.size());
    const Tensor* beside = nullptr;
    for (int i = 0; i < total; ++i) {
      if (!is_tensor(context.slots[i])) continue;
      const Tensor& other = tensor_of(context.slots[i]);
      if (!beside || (dtype_is_float(other.dtype()) && !dtype_is_float(beside->dtype()))) {
        beside = &other;
      }
    }
    if (!beside || (beside->dtype() == Dtype::boolean && PyFloat_Check(object))) {
      return {nullptr, number_as(object, PyFloat_Check(object) ? Dtype::f32 : Dtype::i64)};
    }
    return {nullptr, number_as(object, beside->dtype())};
  }
  if (object == Py_None || PyUnicode_Check(object)) {
    fail<TypeError>(context.where(), ": expected a tensor, got ", type_name(object));
  }
  return {nullptr, tensor_from(object)};
}

std::vector<Tensor> convert_tensors(const ArgumentContext& context) {
  PyObject* object = context.slots[context.index];
  BESSEMER_CHECK(!is_tensor(object), TypeError, context.where(),
                 ": expected a list of tensors, got one tensor");
  const Owned items = own(PySequence_Fast(object, "expected a list of tensors"));
  std::vector<Tensor> out;
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.get()); ++i) {
    PyObject* item = PySequence_Fast_GET_ITEM(items.get(), i);
    out.push_back(is_tensor(item) ? tensor_of(item) : tensor_from(item));
  }
  return out;
}

int64_t integer_from(PyObject* object, const char* what) {
  if (PyLong_CheckExact(object)) {
    const long long value = PyLong_AsLongLong(object);
    check_python(!(value == -1 && PyErr_Occurred()));
    return value;
  }
  BESSEMER_CHECK(!PyFloat_Check(object) && !PyBool_Check(object), TypeError, what,
                 ": expected an integer, got ", type_name(object));
  const Owned whole(PyNumber_Index(object));
  if (!whole) {
    PyErr_Clear();
    fail<TypeError>(what, ": expected an integer, got ", type_name(object));
  }
  const long long value = PyLong_AsLongLong(whole.get());
  check_python(!(value == -1 && PyErr_Occurred()));
  return value;
}

int integers_from(PyObject* object, int64_t* out, const char* what) {
  if (PyLong_Check(object)) {
    out[0] = integer_from(object, what);
    return 1;
  }
  BESSEMER_CHECK(PyTuple_Check(object) || PyList_Check(object) || PySequence_Check(object),
                 TypeError, what, ": expected an integer or a sequence of them, got ",
                 type_name(object));
  BESSEMER_CHECK(!PyUnicode_Check(object), TypeError, what,
                 ": expected an integer or a sequence of them, got str");
  const Owned items = own(PySequence_Fast(object, what));
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(items.get());
  BESSEMER_CHECK(count <= kMaxDims, ValueError, what, ": at most ", kMaxDims, " dimensions, got ",
                 count);
  for (Py_ssize_t i = 0; i < count; ++i) {
    out[i] = integer_from(PySequence_Fast_GET_ITEM(items.get(), i), what);
  }
  return static_cast<int>(count);
}

int64_t convert_integer(const ArgumentContext& context) {
  PyObject* object = context.slots[context.index];
  if (PyLong_CheckExact(object)) {
    const long long value = PyLong_AsLongLong(object);
    if (value != -1 || !PyErr_Occurred()) return value;
    throw PythonError{};
  }
  return integer_from(object, context.where().c_str());
}

double convert_number(const ArgumentContext& context) {
  PyObject* object = context.slots[context.index];
  if (PyFloat_CheckExact(object)) return PyFloat_AS_DOUBLE(object);
  const double value = PyFloat_AsDouble(object);
  if (value == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    fail<TypeError>(context.where(), ": expected a number, got ", type_name(object));
  }
  return value;
}

bool convert_flag(const ArgumentContext& context) {
  PyObject* object = context.slots[context.index];
  if (object == Py_True) return true;
  if (object == Py_False) return false;
  const int value = PyObject_IsTrue(object);
  check_python(value >= 0);
  BESSEMER_CHECK(PyLong_Check(object) || PyArray_IsScalar(object, Bool), TypeError, context.where(),
                 ": expected True or False, got ", type_name(object));
  return value != 0;
}

Shape convert_shape(const ArgumentContext& context) {
  Shape shape;
  PyObject* object = context.slots[context.index];
  shape.ndim = integers_from(object, shape.dim, "shape");
  return shape;
}

Dims convert_dims(const ArgumentContext& context) {
  Dims dims;
  PyObject* object = context.slots[context.index];
  if (object == Py_None) return dims;
  if (PyLong_CheckExact(object)) {
    dims.count = 1;
    dims.dim[0] = integer_from(object, "dims");
    return dims;
  }
  dims.count = integers_from(object, dims.dim, "dims");
  return dims;
}

Dtype dtype_from(PyObject* object) {
  if (PyUnicode_Check(object)) return dtype_parse(text_of(object, "dtype"));
  if (object == reinterpret_cast<PyObject*>(&PyFloat_Type)) return Dtype::f32;
  if (object == reinterpret_cast<PyObject*>(&PyLong_Type)) return Dtype::i64;
  if (object == reinterpret_cast<PyObject*>(&PyBool_Type)) return Dtype::boolean;
  PyArray_Descr* descr = nullptr;
  BESSEMER_CHECK(!is_tensor(object) && PyArray_DescrConverter(object, &descr) && descr, TypeError,
                 "expected a dtype such as 'float32', got ", type_name(object));
  const int type = descr->type_num;
  Py_DECREF(descr);
  Dtype dtype;
  BESSEMER_CHECK(dtype_of_numpy(type, dtype), TypeError, "there are no tensors of NumPy's type ",
                 text_of(own(PyObject_Str(object)).get(), "dtype"));
  return dtype;
}

Dtype convert_dtype(const ArgumentContext& context) {
  return dtype_from(context.slots[context.index]);
}

cpu::Activation convert_activation(const ArgumentContext& context) {
  static const std::vector<std::string> names = {"none", "relu", "tanh", "sigmoid", "silu", "gelu"};
  PyObject* object = context.slots[context.index];
  if (object == Py_None) return cpu::Activation::none;
  const std::string name = text_of(object, "activation");
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<cpu::Activation>(i);
  }
  fail<ValueError>(context.where(), ": unknown activation '", name, "'", did_you_mean(name, names));
}

}  // namespace bessemer::python

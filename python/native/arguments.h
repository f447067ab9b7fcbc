// Arguments of operations: from Python objects to what the C++ functions take, by the parameter's
// type.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <tuple>
#include <type_traits>
#include <vector>

#include "python/native/native.h"

namespace bessemer::python {

/// One Python parameter: interned name and default value (null: required).
struct Parameter {
  PyObject* name = nullptr;
  PyObject* fallback = nullptr;
};
struct Signature {
  const char* op = "";
  std::vector<Parameter> parameters;
};

/// Reads "x, dims=None, keepdim=False"; defaults are None, booleans, numbers and quoted names.
Signature parse_signature(const char* op, const char* text);

/// Sorts positional and keyword arguments into `slots`, one a parameter, borrowed. `self` (may be
/// null) is the first. `rest`: when the last parameter is a list of integers, surplus positional
/// arguments are collected into a tuple that `rest` owns: x.reshape(2, 3).
void bind_arguments(const Signature& signature, PyObject* self, PyObject* const* args,
                    Py_ssize_t count, PyObject* keyword_names, PyObject** slots, bool collect_rest,
                    Owned& rest);

/// What a converter may look at to explain a failure, and to give a number its dtype.
struct ArgumentContext {
  const Signature& signature;
  PyObject* const* slots;
  int index;
  /// "[op] name" for messages.
  std::string where() const;
};

/// A tensor argument: borrowed from a Tensor object, or made from a number or an array.
struct TensorArgument {
  const Tensor* tensor;
  Tensor made;
  operator const Tensor&() const { return tensor ? *tensor : made; }
};

bool is_number(PyObject* object);
/// A 0-d tensor for a Python number beside `like`: its dtype, except that a float beside an integer
/// tensor is float32, and an int beside a bool tensor int64.
Tensor number_beside(const Tensor& like, PyObject* number);
/// A tensor from a number, nested sequences or an array (copied); TypeError for the rest.
Tensor tensor_from(PyObject* object, std::optional<Dtype> dtype = {});
/// Elements of an array-like object without copying where it allows; null dtype for unsupported
/// ones.
Dtype dtype_from(PyObject* object);
PyObject* dtype_object(Dtype dtype);  // borrowed interned name
int64_t integer_from(PyObject* object, const char* what);
/// Integers from an int or a sequence of them; at most kMaxDims.
int integers_from(PyObject* object, int64_t* out, const char* what);

TensorArgument convert_tensor(const ArgumentContext& context);
std::vector<Tensor> convert_tensors(const ArgumentContext& context);
int64_t convert_integer(const ArgumentContext& context);
double convert_number(const ArgumentContext& context);
bool convert_flag(const ArgumentContext& context);
Shape convert_shape(const ArgumentContext& context);
Dims convert_dims(const ArgumentContext& context);
Dtype convert_dtype(const ArgumentContext& context);
cpu::Activation convert_activation(const ArgumentContext& context);

/// Holds the vector a span parameter looks at.
struct TensorsArgument {
  std::vector<Tensor> tensors;
  operator std::span<const Tensor>() const { return tensors; }
};

template <class T>
auto convert(const ArgumentContext& context) {
  if constexpr (std::is_same_v<T, Tensor>) {
    return convert_tensor(context);
  } else if constexpr (std::is_same_v<T, std::span<const Tensor>>) {
    return TensorsArgument{convert_tensors(context)};
  } else if constexpr (std::is_same_v<T, bool>) {
    return convert_flag(context);
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return convert_integer(context);
  } else if constexpr (std::is_same_v<T, double>) {
    return convert_number(context);
  } else if constexpr (std::is_same_v<T, Shape>) {
    return convert_shape(context);
  } else if constexpr (std::is_same_v<T, Dims>) {
    return convert_dims(context);
  } else if constexpr (std::is_same_v<T, Dtype>) {
    return convert_dtype(context);
  } else {
    static_assert(std::is_same_v<T, cpu::Activation>, "a parameter type without a converter");
    return convert_activation(context);
  }
}

/// A result as Python object: a tensor, or a tuple of them.
inline PyObject* wrap_result(Tensor&& result) { return wrap(std::move(result)); }
template <class Tuple>
PyObject* wrap_result(Tuple&& results) {
  return std::apply(
      [](auto&&... parts) {
        Owned tuple = own(PyTuple_New(sizeof...(parts)));
        Py_ssize_t i = 0;
        auto put = [&](Tensor& part) {
          PyTuple_SET_ITEM(tuple.get(), i++, own(wrap(part)).release());
        };
        (put(parts), ...);
        return tuple.release();
      },
      results);
}

/// Binds the C++ function `Function` as a Python function and a Tensor method. `Tag` makes the
/// binding of two rows with one function type distinct.
template <auto Function, class Tag>
struct Binding;

template <class Result, class... Args, Result (*Function)(Args...), class Tag>
struct Binding<Function, Tag> {
  static constexpr int kParameters = sizeof...(Args);
  static constexpr bool kPair = !std::is_same_v<Result, Tensor>;
  using Last = std::decay_t<std::tuple_element_t<kParameters - 1, std::tuple<Args...>>>;
  static constexpr bool kCollect = std::is_same_v<Last, Shape> || std::is_same_v<Last, Dims>;
  static constexpr bool kMethod =
      std::is_same_v<std::decay_t<std::tuple_element_t<0, std::tuple<Args...>>>, Tensor>;
  static inline Signature signature;

  static PyObject* function(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* names) {
    return call(nullptr, args, count, names);
  }
  static PyObject* method(PyObject* self, PyObject* const* args, Py_ssize_t count,
                          PyObject* names) {
    return call(self, args, count, names);
  }

 private:
  static PyObject* call(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
    return guarded([&] {
      PyObject* slots[kParameters];
      Owned rest;
      bind_arguments(signature, self, args, count, names, slots, kCollect, rest);
      return apply_slots(slots, std::make_index_sequence<kParameters>{});
    });
  }
  template <size_t... I>
  static PyObject* apply_slots(PyObject* const* slots, std::index_sequence<I...>) {
    return wrap_result(Function(
        convert<std::decay_t<Args>>(ArgumentContext{signature, slots, static_cast<int>(I)})...));
  }
};

}  // namespace bessemer::python

#include "python/native/env_values.h"

#include <charconv>
#include <cmath>

#include "python/native/arguments.h"
#include "python/native/tensor_type.h"

namespace bessemer::python {
namespace {

template <class T, class Convert>
PyObject* list_of(const std::vector<T>& values, Convert&& convert) {
  Owned list = own(PyList_New(static_cast<Py_ssize_t>(values.size())));
  for (size_t i = 0; i < values.size(); ++i) {
    PyList_SET_ITEM(list.get(), i, own(convert(values[i])).release());
  }
  return list.release();
}

PyObject* text(const std::string& value) {
  return PyUnicode_FromStringAndSize(value.data(), static_cast<Py_ssize_t>(value.size()));
}

/// Sets and takes over a new reference.
void put(PyObject* dictionary, const char* key, PyObject* value) {
  const Owned owned = own(value);
  check_python(PyDict_SetItemString(dictionary, key, owned.get()) == 0);
}

PyObject* channel_dictionary(const Channel& channel) {
  constexpr const char* kinds[] = {"box", "discrete", "multi_discrete", "multi_binary", "text"};
  Owned out = own(PyDict_New());
  put(out.get(), "name", text(channel.name));
  put(out.get(), "kind", PyUnicode_FromString(kinds[static_cast<int>(channel.kind)]));
  put(out.get(), "dtype", Py_NewRef(dtype_object(channel.dtype)));
  const auto integer = [](int64_t v) { return PyLong_FromLongLong(v); };
  const auto number = [](double v) { return PyFloat_FromDouble(v); };
  const Owned shape = own(list_of(channel.shape, integer));
  put(out.get(), "shape", PyList_AsTuple(shape.get()));
  put(out.get(), "low", list_of(channel.low, number));
  put(out.get(), "high", list_of(channel.high, number));
  put(out.get(), "n", list_of(channel.n, integer));
  put(out.get(), "start", PyLong_FromLongLong(channel.start));
  put(out.get(), "ragged", PyBool_FromLong(channel.ragged));
  put(out.get(), "max_length", PyLong_FromLongLong(channel.max_length));
  return out.release();
}

PyObject* option_dictionary(const Option& option) {
  constexpr const char* types[] = {"boolean", "integer", "number", "text"};
  Owned out = own(PyDict_New());
  put(out.get(), "name", text(option.name));
  put(out.get(), "type", PyUnicode_FromString(types[static_cast<int>(option.type)]));
  put(out.get(), "default", text(option.fallback));
  put(out.get(), "min", PyFloat_FromDouble(option.min));
  put(out.get(), "max", PyFloat_FromDouble(option.max));
  put(out.get(), "doc", text(option.doc));
  return out.release();
}

std::string option_text(PyObject* value, const char* what) {
  if (PyBool_Check(value) || PyArray_IsScalar(value, Bool))
    return PyObject_IsTrue(value) ? "true" : "false";
  if (PyUnicode_Check(value)) return text_of(value, what);
  if (PyLong_Check(value) || PyArray_IsScalar(value, Integer)) {
    return text_of(own(PyObject_Str(own(PyNumber_Index(value)).get())).get(), what);
  }
  if (PyFloat_Check(value) || PyArray_IsScalar(value, Floating)) {
    const double number = PyFloat_AsDouble(value);
    check_python(!(number == -1 && PyErr_Occurred()));
    return cat(number);
  }
  fail<TypeError>(what, ": expected a bool, int, float or str, got ", Py_TYPE(value)->tp_name);
}

std::string shape_text_of(PyArrayObject* array) {
  std::vector<int64_t> shape(PyArray_DIMS(array), PyArray_DIMS(array) + PyArray_NDIM(array));
  return cat(shape);
}

}  // namespace

PyObject* spec_dictionary(const Spec& spec) {
  Owned out = own(PyDict_New());
  put(out.get(), "id", text(spec.id));
  put(out.get(), "doc", text(spec.doc));
  put(out.get(), "observation", list_of(spec.observation, channel_dictionary));
  put(out.get(), "action", list_of(spec.action, channel_dictionary));
  put(out.get(), "rewards", list_of(spec.rewards, channel_dictionary));
  put(out.get(), "infos", list_of(spec.infos, channel_dictionary));
  put(out.get(), "action_mask", PyBool_FromLong(spec.action_mask));
  put(out.get(), "rows", PyLong_FromLong(spec.rows));
  put(out.get(), "max_episode_steps", PyLong_FromLongLong(spec.max_episode_steps));
  put(out.get(), "reward_threshold",
      std::isnan(spec.reward_threshold) ? Py_NewRef(Py_None)
                                        : PyFloat_FromDouble(spec.reward_threshold));
  put(out.get(), "render_fps", PyFloat_FromDouble(spec.render_fps));
  put(out.get(), "render_width", PyLong_FromLong(spec.render_width));
  put(out.get(), "render_height", PyLong_FromLong(spec.render_height));
  put(out.get(), "options", list_of(spec.options, option_dictionary));
  put(out.get(), "reset_options", list_of(spec.reset_options, option_dictionary));
  return out.release();
}

Options options_from(PyObject* mapping, const char* what) {
  Options out;
  if (!mapping || mapping == Py_None) return out;
  BESSEMER_CHECK(PyDict_Check(mapping), TypeError, what, ": expected a dict, got ",
                 Py_TYPE(mapping)->tp_name);
  PyObject *key, *value;
  Py_ssize_t at = 0;
  while (PyDict_Next(mapping, &at, &key, &value)) {
    if (value == Py_None) continue;  // the default
    const std::string name = text_of(key, what);
    out.emplace_back(name, option_text(value, cat(what, " '", name, "'").c_str()));
  }
  return out;
}

uint64_t seed_from(PyObject* object) {
  BESSEMER_CHECK(
      (PyLong_Check(object) && !PyBool_Check(object)) || PyArray_IsScalar(object, Integer),
      TypeError, "a seed is an int, got ", Py_TYPE(object)->tp_name);
  const Owned whole = own(PyNumber_Index(object));
  const unsigned long long seed = PyLong_AsUnsignedLongLong(whole.get());
  if (seed == static_cast<unsigned long long>(-1) && PyErr_Occurred()) {
    PyErr_Clear();
    fail<ValueError>("a seed is from 0 to 2**64 - 1, got ",
                     text_of(own(PyObject_Str(whole.get())).get(), "seed"));
  }
  return seed;
}

// --- actions
// ---------------------------------------------------------------------------------------

ActionReader::ActionReader(const Channel& channel, int64_t rows) : channel_(&channel), rows_(rows) {
  if (channel.ragged) return;
  type_ = numpy_type(channel.dtype);
  BESSEMER_CHECK(type_ >= 0, TypeError, "[env] actions of ", dtype_name(channel.dtype),
                 " do not exist in NumPy");
  if (rows >= 0) shape_[ndim_++] = rows;
  for (const int64_t size : channel.shape) shape_[ndim_++] = size;
  scalar_integer_ = rows < 0 && channel.kind == SpaceKind::discrete && channel.shape.empty() &&
                    (channel.dtype == Dtype::i64 || channel.dtype == Dtype::i32);
}

Actions ActionReader::read_rows(PyObject* action, int64_t rows) {
  const int64_t before = rows_;
  rows_ = rows;
  if (ndim_ > 0) shape_[0] = rows;
  struct Restore {
    ActionReader& reader;
    int64_t rows;
    ~Restore() {
      reader.rows_ = rows;
      if (reader.ndim_ > 0) reader.shape_[0] = rows;
    }
  } const restore{*this, before};
  return read(action);
}

Actions ActionReader::read(PyObject* action) {
  if (channel_->ragged) {
    text_.clear();
    if (rows_ < 0) {
      text_.push(text_of(action, "[step] the action"));
    } else {
      BESSEMER_CHECK(!PyUnicode_Check(action), TypeError, "[step] expected ", rows_,
                     " texts, got one str");
      const Owned items = own(PySequence_Fast(action, "[step] expected a sequence of str"));
      BESSEMER_CHECK(PySequence_Fast_GET_SIZE(items.get()) == rows_, ValueError, "[step] expected ",
                     rows_, " texts, got ", PySequence_Fast_GET_SIZE(items.get()));
      for (int64_t i = 0; i < rows_; ++i) {
        text_.push(text_of(PySequence_Fast_GET_ITEM(items.get(), i), "[step] an action"));
      }
    }
    return {nullptr, &text_};
  }
  PyArrayObject* array = nullptr;
  if (PyArray_Check(action)) {
    array = as_array(action);
  } else {
    held_.reset(is_tensor(action) ? numpy_view(tensor_of(action)) : PyArray_FROM_O(action));
    if (!held_) {
      PyErr_Clear();
      fail<TypeError>("[step] the action is a ", Py_TYPE(action)->tp_name, ", expected ",
                      dtype_name(channel_->dtype), " numbers");
    }
    array = as_array(held_.get());
  }
  const int given = PyArray_TYPE(array);
  if (given != type_) {
    const bool integral = channel_->kind != SpaceKind::box;
    const bool fits =
        PyTypeNum_ISINTEGER(given) || (integral ? given == NPY_BOOL : PyTypeNum_ISFLOAT(given));
    BESSEMER_CHECK(
        fits, TypeError, "[step] actions are ",
        text_of(own(PyObject_Str(reinterpret_cast<PyObject*>(PyArray_DESCR(array)))).get(),
                "dtype"),
        ", expected ", dtype_name(channel_->dtype));
  }
  bool same = PyArray_NDIM(array) == ndim_;
  for (int i = 0; same && i < ndim_; ++i) same = PyArray_DIM(array, i) == shape_[i];
  if (!same) {
    fail<ValueError>("[step] actions have shape ", shape_text_of(array), ", expected ",
                     cat(std::vector<int64_t>(shape_, shape_ + ndim_)));
  }
  if (given == type_ && PyArray_IS_C_CONTIGUOUS(array) && PyArray_ISBEHAVED_RO(array)) {
    return {PyArray_DATA(array), nullptr};
  }
  held_ = own(PyArray_FromArray(array, PyArray_DescrFromType(type_),
                                NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST | NPY_ARRAY_NOTSWAPPED));
  return {PyArray_DATA(as_array(held_.get())), nullptr};
}

// --- observations
// ----------------------------------------------------------------------------------

namespace {
int channel_shape(const Channel& channel, int64_t rows, npy_intp* shape) {
  int ndim = 0;
  if (rows >= 0) shape[ndim++] = rows;
  for (const int64_t size : channel.shape) shape[ndim++] = size;
  return ndim;
}

/// Puts `value` into nested dictionaries along the dots of `name`.
void put_dotted(PyObject* dictionary, std::string_view name, PyObject* value) {
  const size_t dot = name.find('.');
  const Owned key = own(PyUnicode_FromStringAndSize(
      name.data(), static_cast<Py_ssize_t>(dot == name.npos ? name.size() : dot)));
  if (dot == std::string_view::npos) {
    check_python(PyDict_SetItem(dictionary, key.get(), value) == 0);
    return;
  }
  PyObject* inner = PyDict_GetItemWithError(dictionary, key.get());
  if (!inner) {
    const Owned made = own(PyDict_New());
    check_python(PyDict_SetItem(dictionary, key.get(), made.get()) == 0);
    inner = made.get();
  }
  put_dotted(inner, name.substr(dot + 1), value);
}
}  // namespace

ObservationWriter::ObservationWriter(const std::vector<Channel>& channels, int64_t rows)
    : channels_(&channels), rows_(rows) {
  for (const Channel& channel : channels) {
    has_ragged_ |= channel.ragged;
    BESSEMER_CHECK(channel.ragged || numpy_type(channel.dtype) >= 0, TypeError,
                   "[env] observations of ", dtype_name(channel.dtype), " do not exist in NumPy");
  }
  single_array_ = channels.size() == 1 && !has_ragged_ && (rows >= 0 || !channels[0].shape.empty());
  if (single_array_) {
    type_ = numpy_type(channels[0].dtype);
    ndim_ = channel_shape(channels[0], rows, shape_);
  }
}

void ObservationWriter::prepare(Arrays& out) const {
  const size_t count = channels_->size();
  out.arrays.clear();
  out.arrays.resize(count);
  out.pointers.assign(count, nullptr);
  if (has_ragged_) {
    out.text.resize(count);
    out.ragged.assign(count, nullptr);
  }
  for (size_t c = 0; c < count; ++c) {
    const Channel& channel = (*channels_)[c];
    if (channel.ragged) {
      out.text[c].clear();
      out.ragged[c] = &out.text[c];
      continue;
    }
    npy_intp shape[kMaxDims + 1];
    const int ndim = channel_shape(channel, rows_, shape);
    out.arrays[c] = own(new_array(ndim, shape, numpy_type(channel.dtype)));
    out.pointers[c] = PyArray_DATA(as_array(out.arrays[c].get()));
  }
}

PyObject* ObservationWriter::value(const Arrays& arrays, size_t c) const {
  const Channel& channel = (*channels_)[c];
  if (channel.ragged) {
    const auto decode = [](std::string_view bytes) {
      return PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace");
    };
    const Ragged& text = arrays.text[c];
    if (rows_ < 0) return decode(text.row(0));
    Owned tuple = own(PyTuple_New(text.rows()));
    for (int64_t i = 0; i < text.rows(); ++i)
      PyTuple_SET_ITEM(tuple.get(), i, own(decode(text.row(i))).release());
    return tuple.release();
  }
  PyObject* array = arrays.arrays[c].get();
  // One Discrete observation is an int, as in Gymnasium.
  if (rows_ < 0 && channel.kind == SpaceKind::discrete && channel.shape.empty()) {
    return PyArray_GETITEM(as_array(array), static_cast<char*>(PyArray_DATA(as_array(array))));
  }
  return Py_NewRef(array);
}

PyObject* ObservationWriter::combine(std::vector<Owned> values) const {
  if (values.size() == 1) return values[0].release();
  Owned out = own(PyDict_New());
  for (size_t c = 0; c < values.size(); ++c)
    put_dotted(out.get(), (*channels_)[c].name, values[c].get());
  return out.release();
}

PyObject* ObservationWriter::finish(const Arrays& arrays) const {
  std::vector<Owned> values;
  for (size_t c = 0; c < channels_->size(); ++c) values.push_back(own(value(arrays, c)));
  return combine(std::move(values));
}

PyObject* ObservationWriter::row(const Arrays& arrays, int64_t i) const {
  std::vector<Owned> values;
  for (size_t c = 0; c < channels_->size(); ++c) {
    if ((*channels_)[c].ragged) {
      const std::string_view bytes = arrays.text[c].row(i);
      values.push_back(own(
          PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace")));
      continue;
    }
    const Owned view = own(PySequence_GetItem(arrays.arrays[c].get(), i));
    values.push_back(PyArray_Check(view.get())
                         ? own(PyArray_NewCopy(as_array(view.get()), NPY_CORDER))
                         : Owned(Py_NewRef(view.get())));
  }
  return combine(std::move(values));
}

}  // namespace bessemer::python

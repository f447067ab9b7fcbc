// x[...]: integers, slices, None and Ellipsis give views; integer tensors and boolean masks gather.
#include <cstring>
#include <vector>

#include "python/native/arguments.h"
#include "python/native/numpy_api.h"
#include "python/native/tensor_type.h"

namespace bessemer::python {
namespace {

/// Index tensors of a key, waiting for the dimensions they select from.
struct Gathered {
  int dim = -1;               // the first dimension they replace
  std::vector<Tensor> index;  // int64, one a dimension, broadcast against each other
};

bool is_index_array(PyObject* item) {
  return is_tensor(item) || PyArray_Check(item) || PyList_Check(item);
}

/// Positions of the true elements of a mask, one int64 tensor a dimension.
std::vector<Tensor> mask_positions(const Tensor& mask) {
  const Tensor dense = contiguous(mask);
  const auto values =
      std::span(static_cast<const uint8_t*>(dense.raw()), static_cast<size_t>(dense.numel()));
  int64_t count = 0;
  for (const uint8_t value : values) count += value != 0;
  std::vector<Tensor> out;
  for (int d = 0; d < mask.ndim(); ++d) out.push_back(Tensor::empty({count}, Dtype::i64));
  int64_t at = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!values[i]) continue;
    int64_t rest = static_cast<int64_t>(i);
    for (int d = mask.ndim() - 1; d >= 0; --d) {
      out[d].data<int64_t>()[at] = rest % mask.shape()[d];
      rest /= mask.shape()[d];
    }
    ++at;
  }
  return out;
}

/// Applies the part of a key that makes views; index tensors are put aside.
Tensor basic_index(Tensor x, PyObject* const* items, Py_ssize_t count, Gathered& gathered) {
  Py_ssize_t consumed = 0;
  bool ellipsis = false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (items[i] == Py_Ellipsis) {
      BESSEMER_CHECK(!ellipsis, IndexError, "an index can hold one Ellipsis only");
      ellipsis = true;
    } else if (items[i] != Py_None) {
      Py_ssize_t dims = 1;
      if (is_tensor(items[i]) && tensor_of(items[i]).dtype() == Dtype::boolean) {
        dims = tensor_of(items[i]).ndim();
      } else if (PyArray_Check(items[i]) && PyArray_TYPE(as_array(items[i])) == NPY_BOOL) {
        dims = PyArray_NDIM(as_array(items[i]));
      }
      consumed += dims;
    }
  }
  BESSEMER_CHECK(consumed <= x.ndim(), IndexError, "too many indices: ", consumed,
                 " for a tensor of shape ", x.shape());
  int dim = 0;
  bool apart = false;  // something stood between two index tensors
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* item = items[i];
    if (PyLong_CheckExact(item)) {
      const long long index = PyLong_AsLongLong(item);
      check_python(!(index == -1 && PyErr_Occurred()));
      const int64_t size = x.shape()[dim];
      BESSEMER_CHECK(index >= -size && index < size, IndexError, "index ", index,
                     " is out of range for dimension ", dim, " of size ", size);
      x = select(x, dim, index);
      apart |= !gathered.index.empty();
    } else if (item == Py_None) {
      x = unsqueeze(x, dim++);
      apart |= !gathered.index.empty();
    } else if (item == Py_Ellipsis) {
      dim += static_cast<int>(x.ndim() - dim);
      // What follows counts from the end.
      Py_ssize_t after = 0;
      for (Py_ssize_t j = i + 1; j < count; ++j) {
        if (items[j] == Py_None) continue;
        after += is_tensor(items[j]) && tensor_of(items[j]).dtype() == Dtype::boolean
                     ? tensor_of(items[j]).ndim()
                     : 1;
      }
      dim -= static_cast<int>(after);
      apart |= !gathered.index.empty();
    } else if (PySlice_Check(item)) {
      Py_ssize_t start, stop, step;
      check_python(PySlice_Unpack(item, &start, &stop, &step) == 0);
      const Py_ssize_t length = PySlice_AdjustIndices(x.shape()[dim], &start, &stop, step);
      const bool whole = step == 1 && start == 0 && length == x.shape()[dim];
      if (!whole) {
        // Bounds are absolute here; a stop before the first element is said as "none left of it".
        if (step < 0 && stop < 0) stop = -x.shape()[dim] - 1;
        x = slice(x, dim, start, stop, step);
      }
      ++dim;
      apart |= !gathered.index.empty();
    } else if (is_index_array(item)) {
      BESSEMER_CHECK(gathered.index.empty() || !apart, IndexError,
                     "index tensors must stand beside each other in a key");
      const Tensor index = is_tensor(item) ? tensor_of(item) : tensor_from(item);
      if (gathered.dim < 0) gathered.dim = dim;
      if (index.dtype() == Dtype::boolean) {
        BESSEMER_CHECK(index.ndim() > 0, IndexError, "a 0-d bool tensor is no index");
        for (int d = 0; d < index.ndim(); ++d) {
          BESSEMER_CHECK(index.shape()[d] == x.shape()[dim + d], IndexError, "a mask of shape ",
                         index.shape(), " does not fit a tensor of shape ", x.shape());
        }
        for (Tensor& positions : mask_positions(index))
          gathered.index.push_back(std::move(positions));
        dim += index.ndim();
      } else {
        BESSEMER_CHECK(dtype_is_integer(index.dtype()), TypeError,
                       "an index tensor is of integers or bool, got ", dtype_name(index.dtype()));
        gathered.index.push_back(index.dtype() == Dtype::i64 ? index : cast(index, Dtype::i64));
        ++dim;
      }
    } else if (PyIndex_Check(item) && !PyBool_Check(item)) {
      const Owned whole = own(PyNumber_Index(item));
      PyObject* one[] = {whole.get()};
      Gathered none;
      // The dimension is counted as the integer case above does.
      const int64_t size = x.shape()[dim];
      const int64_t index = integer_from(one[0], "index");
      BESSEMER_CHECK(index >= -size && index < size, IndexError, "index ", index,
                     " is out of range for dimension ", dim, " of size ", size);
      x = select(x, dim, index);
      apart |= !gathered.index.empty();
    } else {
      fail<TypeError>(
          "a tensor is indexed by integers, slices, None, Ellipsis, integer tensors and "
          "masks, not by ",
          Py_TYPE(item)->tp_name);
    }
  }
  return x;
}

/// The gathered dimensions as one: positions in their flattened product, and the shape of the
/// index.
Tensor flat_positions(const Tensor& x, const Gathered& gathered, Shape& shape) {
  const NoGrad guard;
  shape = gathered.index[0].sizes();
  for (const Tensor& index : gathered.index)
    shape = broadcast_shapes("index", shape, index.sizes());
  Tensor flat = Tensor::zeros(shape, Dtype::i64);
  int64_t* out = flat.data<int64_t>();
  for (size_t k = 0; k < gathered.index.size(); ++k) {
    const Tensor dense = contiguous(expand(gathered.index[k], shape));
    const int64_t* in = dense.data<int64_t>();
    const int64_t size = x.shape()[gathered.dim + static_cast<int>(k)];
    for (int64_t i = 0; i < flat.numel(); ++i) {
      BESSEMER_CHECK(in[i] >= -size && in[i] < size, IndexError, "index ", in[i],
                     " is out of range for dimension ", gathered.dim + static_cast<int>(k),
                     " of size ", size);
      out[i] = out[i] * size + (in[i] < 0 ? in[i] + size : in[i]);
    }
  }
  return reshape(flat, {flat.numel()});
}

/// x with its gathered dimensions merged into one.
Tensor merge_gathered(const Tensor& x, const Gathered& gathered) {
  if (gathered.index.size() == 1) return x;
  Shape merged;
  int64_t product = 1;
  const int end = gathered.dim + static_cast<int>(gathered.index.size());
  for (int d = 0; d < x.ndim(); ++d) {
    if (d < gathered.dim || d >= end) {
      merged.push(x.shape()[d]);
    } else {
      product *= x.shape()[d];
      if (d == end - 1) merged.push(product);
    }
  }
  return reshape(x, merged);
}

Tensor gather_index(const Tensor& x, const Gathered& gathered) {
  Shape index_shape;
  const Tensor flat = flat_positions(x, gathered, index_shape);
  const Tensor taken = index_select(merge_gathered(x, gathered), gathered.dim, flat);
  if (index_shape.ndim == 1) return taken;
  Shape out;
  for (int d = 0; d < gathered.dim; ++d) out.push(taken.shape()[d]);
  for (int d = 0; d < index_shape.ndim; ++d) out.push(index_shape[d]);
  for (int d = gathered.dim + 1; d < taken.ndim(); ++d) out.push(taken.shape()[d]);
  return reshape(taken, out);
}

/// Splits a key into items without copying them.
std::pair<PyObject* const*, Py_ssize_t> key_items(PyObject*& key) {
  if (PyTuple_Check(key)) {
    return {reinterpret_cast<PyTupleObject*>(key)->ob_item, PyTuple_GET_SIZE(key)};
  }
  return {&key, 1};
}

/// Writes `value` where the index tensors point; later entries win.
void scatter_assign(const Tensor& target, const Gathered& gathered, const Tensor& value) {
  Shape index_shape;
  const Tensor flat = flat_positions(target, gathered, index_shape);
  // Bring the gathered dimensions to the front and walk them by their strides.
  const int dims = static_cast<int>(gathered.index.size());
  Dims order;
  order.count = target.ndim();
  int at = 0;
  for (int d = 0; d < dims; ++d) order.dim[at++] = gathered.dim + d;
  for (int d = 0; d < target.ndim(); ++d) {
    if (d < gathered.dim || d >= gathered.dim + dims) order.dim[at++] = d;
  }
  const Tensor front = permute(target, order);
  // The value's shape is that of the indexing: [before, index..., after].
  Shape full;
  for (int d = 0; d < gathered.dim; ++d) full.push(target.shape()[d]);
  for (int d = 0; d < index_shape.ndim; ++d) full.push(index_shape[d]);
  for (int d = gathered.dim + dims; d < target.ndim(); ++d) full.push(target.shape()[d]);
  Dims value_order;
  value_order.count = full.ndim;
  at = 0;
  for (int d = 0; d < index_shape.ndim; ++d) value_order.dim[at++] = gathered.dim + d;
  for (int d = 0; d < full.ndim; ++d) {
    if (d < gathered.dim || d >= gathered.dim + index_shape.ndim) value_order.dim[at++] = d;
  }
  BESSEMER_CHECK(broadcast_shapes("index", value.sizes(), full) == full, ValueError,
                 "a value of shape ", value.shape(), " does not fit an index of shape ",
                 full.dims());
  Tensor rows = contiguous(cast(permute(expand(value, full), value_order), target.dtype()));
  Shape row_shape;
  for (int d = dims; d < front.ndim(); ++d) row_shape.push(front.shape()[d]);
  const auto element = static_cast<int64_t>(dtype_size(target.dtype()));
  const int64_t row_numel = row_shape.numel();
  // A write through assign() first: it refuses what must not be written.
  if (flat.numel() == 0 || row_numel == 0) return;
  const int64_t* positions = flat.data<int64_t>();
  Tensor view = front;
  for (int64_t i = 0; i < flat.numel(); ++i) {
    int64_t rest = positions[i], offset = 0;
    for (int d = dims - 1; d >= 0; --d) {
      offset += rest % front.shape()[d] * front.strides()[d];
      rest /= front.shape()[d];
    }
    char* to = static_cast<char*>(front.raw()) + offset * element;
    const char* from = static_cast<const char*>(rows.raw()) + i * row_numel * element;
    if (row_shape.ndim == 0) {
      std::memcpy(to, from, static_cast<size_t>(element));
    } else {
      const Tensor into = Tensor::wrap(to, target.dtype(), row_shape, front.strides().data() + dims,
                                       nullptr, nullptr);
      int64_t dense[kMaxDims];
      contiguous_strides(row_shape, dense);
      assign(into, Tensor::wrap(const_cast<char*>(from), target.dtype(), row_shape, dense, nullptr,
                                nullptr));
    }
  }
  target.bump();
}

}  // namespace

PyObject* tensor_get_item(PyObject* self, PyObject* key) {
  return guarded([&] {
    const auto [items, count] = key_items(key);
    Gathered gathered;
    const Tensor view = basic_index(tensor_of(self), items, count, gathered);
    if (gathered.index.empty()) return wrap(view);
    return wrap(gather_index(view, gathered));
  });
}

int tensor_set_item(PyObject* self, PyObject* key, PyObject* value) {
  return guarded_int([&] {
    const Tensor& x = tensor_of(self);
    BESSEMER_CHECK(value, TypeError, "elements of a tensor cannot be deleted");
    BESSEMER_CHECK(
        !(current_mode & kModeGrad) || !x.requires_grad(), ValueError,
        "a tensor that requires a gradient cannot be written in place while gradients are "
        "recorded");
    BESSEMER_CHECK(
        !is_tensor(value) || !(current_mode & kModeGrad) || !tensor_of(value).requires_grad(),
        ValueError,
        "a write in place is not recorded: detach() the value, or build the result with "
        "where, concat or scatter_add");
    BESSEMER_CHECK(!x.impl()->storage->read_only, ValueError, "the tensor's memory is read-only");
    const NoGrad guard;
    const auto [items, count] = key_items(key);
    Gathered gathered;
    const Tensor view = basic_index(x.detach(), items, count, gathered);
    Tensor source;
    if (is_tensor(value)) {
      source = tensor_of(value);
    } else if (is_number(value)) {
      source = number_beside(
          Tensor::empty({}, x.dtype() == Dtype::boolean ? Dtype::f64 : x.dtype()), value);
    } else {
      source = tensor_from(value);
    }
    BESSEMER_CHECK(
        dtype_is_float(x.dtype()) || !dtype_is_float(source.dtype()) || x.dtype() == Dtype::boolean,
        TypeError, dtype_name(source.dtype()), " values do not fit into a ", dtype_name(x.dtype()),
        " tensor");
    if (gathered.index.empty()) {
      assign(view, source);
    } else {
      scatter_assign(view, gathered, source);
    }
    return 0;
  });
}

}  // namespace bessemer::python

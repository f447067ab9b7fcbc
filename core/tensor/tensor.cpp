#include "core/tensor/tensor.h"

#include <cstring>
#include <new>

namespace bessemer {

GradHooks grad_hooks;
thread_local uint8_t current_mode = kModeGrad;

namespace {
constexpr uint8_t kImplClass = 2;  // 192 bytes

bool is_contiguous(const TensorImpl& impl) {
  int64_t step = 1;
  for (int i = impl.ndim - 1; i >= 0; --i) {
    if (impl.shape[i] == 1) continue;
    if (impl.strides[i] != step) return impl.numel == 0;
    step *= impl.shape[i];
  }
  return true;
}

void check_shape(const Shape& shape) {
  int64_t n = 1;
  for (int i = 0; i < shape.ndim; ++i) {
    BESSEMER_CHECK(shape[i] >= 0, ValueError, "a size is negative: ", shape.dims());
    BESSEMER_CHECK(!__builtin_mul_overflow(n, shape[i], &n), MemoryError, "a tensor of shape ",
                   shape.dims(), " does not fit in memory");
  }
}

/// One element of any dtype, as raw bytes (bit pattern in the low bytes).
void write_element(void* at, Dtype dtype, double value) {
  switch (dtype) {
    case Dtype::boolean:
      *static_cast<uint8_t*>(at) = value != 0;
      break;
    case Dtype::u8:
      *static_cast<uint8_t*>(at) = static_cast<uint8_t>(static_cast<int64_t>(value));
      break;
    case Dtype::i8:
      *static_cast<int8_t*>(at) = static_cast<int8_t>(static_cast<int64_t>(value));
      break;
    case Dtype::i32:
      *static_cast<int32_t*>(at) = static_cast<int32_t>(static_cast<int64_t>(value));
      break;
    case Dtype::i64:
      *static_cast<int64_t*>(at) = static_cast<int64_t>(value);
      break;
    case Dtype::f16:
      *static_cast<f16*>(at) = to_f16(static_cast<float>(value));
      break;
    case Dtype::bf16:
      *static_cast<bf16*>(at) = to_bf16(static_cast<float>(value));
      break;
    case Dtype::f32:
      *static_cast<float*>(at) = static_cast<float>(value);
      break;
    case Dtype::f64:
      *static_cast<double*>(at) = value;
      break;
  }
}
}  // namespace

TensorImpl* impl_allocate() {
  uint8_t size_class;
  void* block = block_allocate(sizeof(TensorImpl), size_class);
  static_assert(sizeof(TensorImpl) > 128, "impl_destroy frees into the 192-byte class");
  // Not value-initialised: shape and strides are written by whoever makes it.
  auto* impl = static_cast<TensorImpl*>(block);
  new (&impl->refs) std::atomic<uint32_t>(1);
  impl->contiguous = true;
  impl->requires_grad = false;
  impl->device = {};
  impl->output_index = 0;
  impl->storage = nullptr;
  impl->node = nullptr;
  impl->leaf = nullptr;
  return impl;
}

void impl_destroy(TensorImpl* impl) {
  if (impl->node) grad_hooks.drop_node(impl->node);
  if (impl->leaf) grad_hooks.drop_leaf(impl->leaf);
  if (impl->storage) impl->storage->drop();
  block_free(impl, kImplClass);
}

Tensor Tensor::empty(const Shape& shape, Dtype dtype) {
  TensorImpl* impl = impl_allocate();
  impl->dtype = dtype;
  impl->ndim = static_cast<uint8_t>(shape.ndim);
  int64_t step = 1;
  bool wrong = false;
  for (int i = shape.ndim - 1; i >= 0; --i) {
    impl->shape[i] = shape.dim[i];
    impl->strides[i] = step;
    wrong |= shape.dim[i] < 0 || __builtin_mul_overflow(step, shape.dim[i], &step);
  }
  Tensor out(impl);
  if (wrong) [[unlikely]]
    check_shape(shape);
  impl->numel = step;
  impl->storage = Storage::allocate(static_cast<size_t>(step) * dtype_size(dtype));
  impl->data = static_cast<char*>(impl->storage->data);
  return out;
}

Tensor Tensor::zeros(const Shape& shape, Dtype dtype) {
  Tensor out = empty(shape, dtype);
  std::memset(out.raw(), 0, static_cast<size_t>(out.numel()) * dtype_size(dtype));
  return out;
}

Tensor Tensor::full(const Shape& shape, double value, Dtype dtype) {
  Tensor out = empty(shape, dtype);
  char* data = static_cast<char*>(out.raw());
  const size_t size = dtype_size(dtype);
  if (out.numel() == 0) return out;
  write_element(data, dtype, value);
  // Doubling copies: one loop for every dtype.
  const size_t total = static_cast<size_t>(out.numel()) * size;
  for (size_t done = size; done < total;) {
    const size_t now = done < total - done ? done : total - done;
    std::memcpy(data + done, data, now);
    done += now;
  }
  return out;
}

Tensor Tensor::arange(int64_t n, Dtype dtype) {
  Tensor out = empty({n}, dtype);
  char* data = static_cast<char*>(out.raw());
  for (int64_t i = 0; i < n; ++i)
    write_element(data + static_cast<size_t>(i) * dtype_size(dtype), dtype, static_cast<double>(i));
  return out;
}

Tensor Tensor::from(const ArrayView& array) {
  Tensor out = empty(Shape(array.dims()), array.dtype);
  if (array.bytes()) std::memcpy(out.raw(), array.data, array.bytes());
  return out;
}

Tensor Tensor::wrap(void* data, Dtype dtype, const Shape& shape, const int64_t* strides,
                    void (*release)(void*), void* context, bool read_only) {
  check_shape(shape);
  TensorImpl* impl = impl_allocate();
  impl->dtype = dtype;
  impl->ndim = static_cast<uint8_t>(shape.ndim);
  impl->numel = shape.numel();
  int64_t span = 1;
  for (int i = 0; i < shape.ndim; ++i) {
    impl->shape[i] = shape.dim[i];
    impl->strides[i] = strides[i];
    if (strides[i] > 0) span += (shape.dim[i] - 1) * strides[i];
  }
  impl->contiguous = is_contiguous(*impl);
  impl->storage =
      Storage::adopt(data, static_cast<size_t>(span) * dtype_size(dtype), release, context);
  impl->storage->read_only = read_only;
  impl->data = static_cast<char*>(data);
  return Tensor(impl);
}

Tensor make_view(const Tensor& base, const Shape& shape, const int64_t* strides, int64_t offset) {
  const TensorImpl* from = base.impl();
  TensorImpl* impl = impl_allocate();
  impl->dtype = from->dtype;
  impl->ndim = static_cast<uint8_t>(shape.ndim);
  impl->device = from->device;
  impl->numel = shape.numel();
  for (int i = 0; i < shape.ndim; ++i) {
    impl->shape[i] = shape.dim[i];
    impl->strides[i] = strides[i];
  }
  impl->contiguous = is_contiguous(*impl);
  impl->storage = from->storage;
  impl->storage->retain();
  impl->data = from->data + offset * static_cast<int64_t>(dtype_size(from->dtype));
  return Tensor(impl);
}

Tensor Tensor::detach() const { return make_view(*this, sizes(), impl_->strides); }

double Tensor::item() const {
  BESSEMER_CHECK(numel() == 1, ValueError, "[item] a tensor of shape ", shape(),
                 " does not hold exactly one element");
  const void* at = impl_->data;
  switch (dtype()) {
    case Dtype::boolean:
    case Dtype::u8:
      return *static_cast<const uint8_t*>(at);
    case Dtype::i8:
      return *static_cast<const int8_t*>(at);
    case Dtype::i32:
      return *static_cast<const int32_t*>(at);
    case Dtype::i64:
      return static_cast<double>(*static_cast<const int64_t*>(at));
    case Dtype::f16:
      return to_float(*static_cast<const f16*>(at));
    case Dtype::bf16:
      return to_float(*static_cast<const bf16*>(at));
    case Dtype::f32:
      return *static_cast<const float*>(at);
    case Dtype::f64:
      return *static_cast<const double*>(at);
  }
  return 0;
}

ArrayView Tensor::view() const {
  BESSEMER_CHECK(contiguous(), ValueError, "view() of a tensor that is not contiguous");
  ArrayView out{impl_->data, dtype(), ndim(), {}};
  for (int i = 0; i < ndim(); ++i) out.shape[i] = impl_->shape[i];
  return out;
}

}  // namespace bessemer

// The tensor: an 8-byte handle to a view (dtype, shape, strides) of a reference-counted storage.
// Operations are free functions (core/ops/ops.h) and, for the common ones, methods.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "core/tensor/shape.h"
#include "core/tensor/storage.h"

namespace bessemer {

struct Node;  // autograd/node.h: what made this tensor
struct Leaf;  // autograd/node.h: gradient and hooks of a tensor that asked for one

struct TensorImpl {
  std::atomic<uint32_t> refs{1};
  Dtype dtype = Dtype::f32;
  uint8_t ndim = 0;
  bool contiguous = true;
  bool requires_grad = false;  // true also for tensors made from ones that require it
  Device device;
  uint16_t output_index = 0;  // which output of `node`
  int64_t numel = 1;
  char* data = nullptr;
  Storage* storage = nullptr;
  Node* node = nullptr;
  Leaf* leaf = nullptr;
  int64_t shape[kMaxDims];
  int64_t strides[kMaxDims];  // in elements; may be 0 (expanded) or negative (flipped)

  Shape sizes() const { return Shape(std::span<const int64_t>(shape, ndim)); }
};
static_assert(sizeof(TensorImpl) <= 192, "three cache lines");

/// How core tells autograd that a handle is gone; set once by autograd.
struct GradHooks {
  void (*drop_node)(Node*) = nullptr;
  void (*drop_leaf)(Leaf*) = nullptr;
};
extern GradHooks grad_hooks;

TensorImpl* impl_allocate();
void impl_destroy(TensorImpl* impl);

class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(TensorImpl* owned) : impl_(owned) {}
  Tensor(const Tensor& other) : impl_(other.impl_) { retain(); }
  Tensor(Tensor&& other) noexcept : impl_(std::exchange(other.impl_, nullptr)) {}
  Tensor& operator=(const Tensor& other) {
    Tensor copy(other);
    std::swap(impl_, copy.impl_);
    return *this;
  }
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(impl_, other.impl_);
    return *this;
  }
  ~Tensor() { drop(); }

  // --- creation
  // -----------------------------------------------------------------------------------
  static Tensor empty(const Shape& shape, Dtype dtype = Dtype::f32);
  static Tensor zeros(const Shape& shape, Dtype dtype = Dtype::f32);
  static Tensor ones(const Shape& shape, Dtype dtype = Dtype::f32) { return full(shape, 1, dtype); }
  static Tensor full(const Shape& shape, double value, Dtype dtype = Dtype::f32);
  static Tensor scalar(double value, Dtype dtype = Dtype::f32) { return full({}, value, dtype); }
  /// 0, 1, ... n-1.
  static Tensor arange(int64_t n, Dtype dtype = Dtype::i64);
  /// Copies a dense array.
  static Tensor from(const ArrayView& array);
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape) {
    ArrayView view{const_cast<T*>(values.data()), dtype_of<T>(), shape.ndim, {}};
    for (int i = 0; i < shape.ndim; ++i) view.shape[i] = shape[i];
    BESSEMER_CHECK(static_cast<int64_t>(values.size()) == shape.numel(), ValueError, "[from] ",
                   values.size(), " values do not fill ", shape.dims());
    return from(view);
  }
  /// A view of memory somebody else owns. `strides` in elements.
  static Tensor wrap(void* data, Dtype dtype, const Shape& shape, const int64_t* strides,
                     void (*release)(void*), void* context, bool read_only = false);

  // --- what it is
  // ---------------------------------------------------------------------------------
  bool defined() const { return impl_ != nullptr; }
  explicit operator bool() const { return defined(); }
  Dtype dtype() const { return impl_->dtype; }
  Device device() const { return impl_->device; }
  int ndim() const { return impl_->ndim; }
  int64_t numel() const { return impl_->numel; }
  std::span<const int64_t> shape() const { return {impl_->shape, impl_->ndim}; }
  std::span<const int64_t> strides() const { return {impl_->strides, impl_->ndim}; }
  Shape sizes() const { return impl_->sizes(); }
  /// Size of dimension `dim`, negative from the end.
  int64_t size(int64_t dim) const { return impl_->shape[normalize_dim("size", dim, ndim())]; }
  bool contiguous() const { return impl_->contiguous; }
  uint32_t version() const { return impl_->storage->version.load(std::memory_order_relaxed); }

  /// The elements; throws TypeError for another dtype and ValueError where not contiguous.
  template <class T>
  T* data() const {
    BESSEMER_CHECK(impl_->dtype == dtype_of<T>(), TypeError, "tensor is ", dtype_name(dtype()),
                   ", asked for ", dtype_name(dtype_of<T>()));
    BESSEMER_CHECK(impl_->contiguous, ValueError, "data() of a tensor that is not contiguous");
    return reinterpret_cast<T*>(impl_->data);
  }
  template <class T>
  std::span<T> values() const {
    return {data<T>(), static_cast<size_t>(numel())};
  }
  void* raw() const { return impl_->data; }
  /// The only element, as double; ValueError when there are several.
  double item() const;
  ArrayView view() const;  // contiguous tensors only
  /// Tells the storage that its elements were written by hand: packed forms and saved copies see
  /// it.
  void bump() const { impl_->storage->version.fetch_add(1, std::memory_order_relaxed); }

  // --- gradient
  // -----------------------------------------------------------------------------------
  bool requires_grad() const { return impl_->requires_grad; }
  /// Shares the elements, knows nothing of how they were made.
  Tensor detach() const;
  /// autograd/engine.h has backward(), grad() and set_requires_grad() as free functions.

  TensorImpl* impl() const { return impl_; }
  TensorImpl* release() { return std::exchange(impl_, nullptr); }

 private:
  void retain() const {
    if (impl_) impl_->refs.fetch_add(1, std::memory_order_relaxed);
  }
  void drop() {
    if (impl_ && (impl_->refs.load(std::memory_order_acquire) == 1 ||
                  impl_->refs.fetch_sub(1, std::memory_order_acq_rel) == 1))
      impl_destroy(impl_);
  }
  TensorImpl* impl_ = nullptr;
};
static_assert(sizeof(Tensor) == 8);

/// A tensor over part of `base`'s storage: the elements start `offset` elements after base's first
/// and lie at `strides`. Knows nothing of gradients; view rows record themselves.
Tensor make_view(const Tensor& base, const Shape& shape, const int64_t* strides,
                 int64_t offset = 0);

/// What an operation does besides computing: the whole dispatcher is this byte.
enum Mode : uint8_t { kModeGrad = 1, kModeTrace = 2 };
extern thread_local uint8_t current_mode;

/// No gradients are recorded while it lives (inference, optimiser steps).
class NoGrad {
 public:
  NoGrad() : before_(current_mode) { current_mode &= static_cast<uint8_t>(~kModeGrad); }
  ~NoGrad() { current_mode = before_; }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  uint8_t before_;
};

}  // namespace bessemer

// DLPack in and out (https://dmlc.github.io/dlpack): memory shared with other array libraries.
#include <cstring>
#include <memory>

#include "python/native/arguments.h"
#include "python/native/tensor_type.h"

namespace bessemer::python {
namespace {

// The part of dlpack.h (version 1) that a CPU tensor needs.
struct DLDevice {
  int32_t device_type, device_id;
};
struct DLDataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};
struct DLPackVersion {
  uint32_t major, minor;
};
struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned*);
  uint64_t flags;
  DLTensor dl_tensor;
};
constexpr int32_t kCpu = 1;
constexpr uint64_t kReadOnly = 1;
enum : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

DLDataType type_of(Dtype dtype) {
  const auto bits = static_cast<uint8_t>(8 * dtype_size(dtype));
  switch (dtype) {
    case Dtype::boolean:
      return {kBool, 8, 1};
    case Dtype::u8:
      return {kUInt, 8, 1};
    case Dtype::i8:
    case Dtype::i32:
    case Dtype::i64:
      return {kInt, bits, 1};
    case Dtype::bf16:
      return {kBfloat, 16, 1};
    default:
      return {kFloat, bits, 1};
  }
}

Dtype dtype_of_dlpack(DLDataType type) {
  for (int i = 0; i < kDtypes; ++i) {
    const DLDataType known = type_of(static_cast<Dtype>(i));
    if (known.code == type.code && known.bits == type.bits && type.lanes == 1) {
      return static_cast<Dtype>(i);
    }
  }
  fail<TypeError>("[from_dlpack] no tensor dtype for DLPack's type code ", int{type.code}, " with ",
                  int{type.bits}, " bits");
}

/// What an exported tensor keeps alive; the managed struct is its first member.
template <class Managed>
struct Export {
  Managed managed;
  Tensor tensor;
  int64_t shape[kMaxDims], strides[kMaxDims];
};

template <class Managed>
Export<Managed>* make_export(const Tensor& tensor) {
  auto owned = std::make_unique<Export<Managed>>();
  owned->tensor = tensor.detach();
  tensor.impl()->storage->exposed = true;
  for (int i = 0; i < tensor.ndim(); ++i) {
    owned->shape[i] = tensor.shape()[i];
    owned->strides[i] = tensor.strides()[i];
  }
  owned->managed.dl_tensor = {
      tensor.raw(),   {kCpu, 0}, tensor.ndim(), type_of(tensor.dtype()), owned->shape,
      owned->strides, 0};
  owned->managed.manager_ctx = owned.get();
  owned->managed.deleter = [](Managed* self) {
    delete static_cast<Export<Managed>*>(self->manager_ctx);
  };
  return owned.release();
}

template <class Managed>
void free_capsule(PyObject* capsule, const char* name) {
  // A consumer renames the capsule and takes over; otherwise it is ours to free.
  if (!PyCapsule_IsValid(capsule, name)) return;
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  if (managed->deleter) managed->deleter(managed);
}

PyObject* to_dlpack(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&] {
    static const Signature signature =
        parse_signature("__dlpack__", "stream=None, max_version=None, dl_device=None, copy=None");
    PyObject* slots[4];
    Owned rest;
    bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
    Tensor tensor = tensor_of(self);
    BESSEMER_CHECK(
        slots[2] == Py_None || (PyTuple_Check(slots[2]) && PyTuple_GET_SIZE(slots[2]) == 2 &&
                                integer_from(PyTuple_GET_ITEM(slots[2], 0), "dl_device") == kCpu),
        ValueError, "[__dlpack__] only CPU tensors are exported");
    bool read_only = tensor.requires_grad() || tensor.impl()->storage->read_only;
    if (slots[3] == Py_True) {
      tensor = tensor_from(self);
      read_only = false;
    }
    const bool versioned = PyTuple_Check(slots[1]) && PyTuple_GET_SIZE(slots[1]) == 2 &&
                           integer_from(PyTuple_GET_ITEM(slots[1], 0), "max_version") >= 1;
    if (versioned) {
      auto* out = make_export<DLManagedTensorVersioned>(tensor);
      out->managed.version = {1, 0};
      out->managed.flags = read_only ? kReadOnly : 0;
      return PyCapsule_New(&out->managed, "dltensor_versioned", [](PyObject* capsule) {
        free_capsule<DLManagedTensorVersioned>(capsule, "dltensor_versioned");
      });
    }
    BESSEMER_CHECK(
        !read_only, ValueError,
        "[__dlpack__] a tensor that requires a gradient is exported read-only, which needs "
        "DLPack 1: detach() or copy() it");
    return PyCapsule_New(
        &make_export<DLManagedTensor>(tensor)->managed, "dltensor",
        [](PyObject* capsule) { free_capsule<DLManagedTensor>(capsule, "dltensor"); });
  });
}

PyObject* dlpack_device(PyObject*, PyObject*) { return Py_BuildValue("(ii)", kCpu, 0); }

template <class Managed>
Tensor adopt(Managed* managed, bool read_only) {
  const DLTensor& source = managed->dl_tensor;
  BESSEMER_CHECK(source.device.device_type == kCpu, ValueError,
                 "[from_dlpack] the array is not in CPU memory");
  const Shape shape(std::span<const int64_t>(source.shape, static_cast<size_t>(source.ndim)));
  int64_t strides[kMaxDims];
  contiguous_strides(shape, strides);
  for (int i = 0; source.strides && i < source.ndim; ++i) strides[i] = source.strides[i];
  Tensor tensor = Tensor::wrap(
      static_cast<char*>(source.data) + source.byte_offset, dtype_of_dlpack(source.dtype), shape,
      strides,
      [](void* context) {
        auto* done = static_cast<Managed*>(context);
        const PyGILState_STATE state = PyGILState_Ensure();
        if (done->deleter) done->deleter(done);
        PyGILState_Release(state);
      },
      managed, read_only);
  tensor.impl()->storage->exposed = true;
  return tensor;
}

PyObject* from_dlpack(PyObject*, PyObject* object) {
  return guarded([&] {
    Owned capsule;
    if (PyCapsule_CheckExact(object)) {
      capsule = own(Py_NewRef(object));
    } else {
      const Owned method(PyObject_GetAttrString(object, "__dlpack__"));
      if (!method) {
        PyErr_Clear();
        fail<TypeError>("[from_dlpack] ", Py_TYPE(object)->tp_name, " has no __dlpack__");
      }
      const Owned none = own(PyTuple_New(0));
      const Owned keywords = own(Py_BuildValue("{s:(ii)}", "max_version", 1, 0));
      capsule.reset(PyObject_Call(method.get(), none.get(), keywords.get()));
      if (!capsule && PyErr_ExceptionMatches(PyExc_TypeError)) {  // before DLPack 1
        PyErr_Clear();
        capsule.reset(PyObject_CallNoArgs(method.get()));
      }
      check_python(capsule.get());
    }
    if (PyCapsule_IsValid(capsule.get(), "dltensor_versioned")) {
      auto* managed = static_cast<DLManagedTensorVersioned*>(
          PyCapsule_GetPointer(capsule.get(), "dltensor_versioned"));
      BESSEMER_CHECK(managed->version.major == 1, ValueError,
                     "[from_dlpack] unknown DLPack version ", managed->version.major);
      Tensor out = adopt(managed, managed->flags & kReadOnly);
      check_python(PyCapsule_SetName(capsule.get(), "used_dltensor_versioned") == 0);
      return wrap(std::move(out));
    }
    BESSEMER_CHECK(PyCapsule_IsValid(capsule.get(), "dltensor"), ValueError,
                   "[from_dlpack] the capsule was used before or holds something else");
    auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.get(), "dltensor"));
    Tensor out = adopt(managed, false);
    check_python(PyCapsule_SetName(capsule.get(), "used_dltensor") == 0);
    return wrap(std::move(out));
  });
}

PyMethodDef functions[] = {
    {"from_dlpack", from_dlpack, METH_O,
     "from_dlpack(x)\n--\n\nA tensor over the memory of another library's array."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

void append_dlpack_methods(std::vector<PyMethodDef>& table) {
  table.push_back({"__dlpack__", as_method(to_dlpack), METH_FASTCALL | METH_KEYWORDS, nullptr});
  table.push_back({"__dlpack_device__", dlpack_device, METH_NOARGS, nullptr});
}

bool add_dlpack(PyObject* module) { return PyModule_AddFunctions(module, functions) == 0; }

}  // namespace bessemer::python

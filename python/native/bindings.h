// What pybind11 binds: a caster for tensors, and the parts of the module that use it.
#pragma once

#include <pybind11/pybind11.h>

#include "python/native/native.h"

namespace pybind11::detail {

template <>
struct type_caster<bessemer::Tensor> {
  PYBIND11_TYPE_CASTER(bessemer::Tensor, const_name("bessemer.Tensor"));
  bool load(handle source, bool) {
    if (source.is_none()) return true;
    if (!bessemer::python::is_tensor(source.ptr())) return false;
    value = bessemer::python::tensor_of(source.ptr());
    return true;
  }
  static handle cast(const bessemer::Tensor& tensor, return_value_policy, handle) {
    return bessemer::python::wrap(tensor);
  }
};

}  // namespace pybind11::detail

namespace bessemer::python {

void bind_modules(pybind11::module_& m);  // modules.cpp
void bind_decoder(pybind11::module_& m);  // decoder.cpp
void bind_losses(pybind11::module_& m);   // losses.cpp
void bind_runs(pybind11::module_& m);     // run.cpp

}  // namespace bessemer::python

// The native module: Tensor and its functions, environments, modules, runs.
#include <pybind11/pybind11.h>

#include "python/native/bindings.h"
#include "python/native/native.h"

PYBIND11_MODULE(_native, m) {
  namespace py = pybind11;
  using namespace bessemer::python;
  m.doc() = "Bessemer's native module; import bessemer instead.";
  m.attr("__version__") = BESSEMER_VERSION;
  if (!add_tensor_type(m.ptr()) || !add_operations(m.ptr()) || !add_autograd(m.ptr()) ||
      !add_environments(m.ptr()) || !add_runtime(m.ptr())) {
    throw py::error_already_set();
  }
  // The exceptions of the library, for code that pybind11 calls.
  py::register_exception_translator([](std::exception_ptr error) {
    if (!error) return;
    try {
      std::rethrow_exception(error);
    } catch (const PythonError&) {  // Python's own, already set
    } catch (const bessemer::Error&) {
      set_python_error();
    }
  });
  bind_modules(m);
#if defined(BESSEMER_HAS_DECODER)
  bind_decoder(m);
#endif
#if defined(BESSEMER_HAS_LOSSES)
  bind_losses(m);
#endif
#ifdef BESSEMER_HAS_RUNS
  bind_runs(m);
#endif
}

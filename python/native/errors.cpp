#include <new>

#include "core/base/error.h"
#include "python/native/native.h"

namespace bessemer::python {

void set_python_error() noexcept {
  try {
    throw;
  } catch (const PythonError&) {
  } catch (const ValueError& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (const TypeError& e) {
    PyErr_SetString(PyExc_TypeError, e.what());
  } catch (const IndexError& e) {
    PyErr_SetString(PyExc_IndexError, e.what());
  } catch (const MemoryError& e) {
    PyErr_SetString(PyExc_MemoryError, e.what());
  } catch (const IoError& e) {
    PyErr_SetString(PyExc_OSError, e.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  } catch (...) {
    PyErr_SetString(PyExc_RuntimeError, "an unknown error");
  }
}

std::string text_of(PyObject* object, const char* what) {
  BESSEMER_CHECK(PyUnicode_Check(object), TypeError, what, ": expected a str, got ",
                 Py_TYPE(object)->tp_name);
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(object, &size);
  check_python(text);
  return std::string(text, static_cast<size_t>(size));
}

}  // namespace bessemer::python

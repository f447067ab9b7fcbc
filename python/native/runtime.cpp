// What the process uses: threads, instruction set, memory.
#include <thread>

#include "core/base/wait_check.h"
#include "core/cpu/kernels.h"
#include "core/tensor/storage.h"
#include "python/native/arguments.h"
#ifdef BESSEMER_HAS_WIRE
#include "envs/server/python_host.h"
#endif

namespace bessemer::python {
namespace {

PyObject* set_threads(PyObject*, PyObject* threads) {
  return guarded([&]() -> PyObject* {
    const int64_t count = integer_from(threads, "[set_threads] threads");
    BESSEMER_CHECK(count >= 0 && count <= 1024, ValueError, "[set_threads] ", count,
                   " threads, expected 0 (all cores) to 1024");
    cpu::set_threads(static_cast<int>(count == 0 ? core_count() : count));
    Py_RETURN_NONE;
  });
}
PyObject* get_threads(PyObject*, PyObject*) { return PyLong_FromLong(cpu::pool().threads()); }
PyObject* isa(PyObject*, PyObject*) {
  return guarded([&] { return PyUnicode_FromString(cpu::kernels().isa); });
}
PyObject* isas(PyObject*, PyObject*) {
  return guarded([&] {
    Owned list = own(PyList_New(0));
    for (const std::string& name : cpu::available_isas()) {
      check_python(PyList_Append(list.get(), own(PyUnicode_FromString(name.c_str())).get()) == 0);
    }
    return list.release();
  });
}
PyObject* memory(PyObject*, PyObject*) {
  const MemoryStats stats = memory_stats();
  return Py_BuildValue("(LL)", static_cast<long long>(stats.current),
                       static_cast<long long>(stats.peak));
}

PyMethodDef functions[] = {
    {"set_threads", set_threads, METH_O,
     "set_threads(threads)\n--\n\nThreads that large operations use; 0 means one a core."},
    {"get_threads", get_threads, METH_NOARGS,
     "get_threads()\n--\n\nThreads that large operations use."},
    {"isa", isa, METH_NOARGS,
     "isa()\n--\n\nThe instruction set of the kernels: BESSEMER_ISA forces one."},
    {"available_isas", isas, METH_NOARGS,
     "available_isas()\n--\n\nWhat this machine can run, narrowest first."},
    {"memory_stats", memory, METH_NOARGS,
     "memory_stats()\n--\n\nBytes that tensors hold: (now, most so far)."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

bool add_runtime(PyObject* module) {
  // The thread that imports the package is the one that Python gives signals to.
  static const std::thread::id signalled = std::this_thread::get_id();
  wait_check_hook() = [] {
    if (std::this_thread::get_id() != signalled) return;
    const PyGILState_STATE state = PyGILState_Ensure();
    const bool raised = PyErr_CheckSignals() != 0;
    PyGILState_Release(state);
    if (raised) throw PythonError{};
  };
#ifdef BESSEMER_HAS_WIRE
  // User code in other processes runs under the same interpreter.
  PyObject* executable = PySys_GetObject("executable");
  if (executable && PyUnicode_Check(executable)) {
    set_host_interpreter(text_of(executable, "sys.executable"));
  }
#endif
  return PyModule_AddFunctions(module, functions) == 0;
}

}  // namespace bessemer::python

// Runs of recipes from Python: the runner of the command line, without the interpreter's lock.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "forge/interrupt.h"
#include "forge/launch.h"
#include "python/native/bindings.h"

namespace py = pybind11;

namespace bessemer::python {
namespace {

py::dict summary_dictionary(const RunSummary& summary) {
  Metrics metrics = summary.metrics;
  if (summary.evaluation) add_evaluation(*summary.evaluation, metrics);
  py::dict out;
  for (const auto& [name, value] : metrics.values()) out[py::str(name)] = value.value();
  constexpr const char* ends[] = {"steps", "bar", "interrupted"};
  out["run/folder"] = summary.folder;
  out["run/end"] = ends[static_cast<int>(summary.end)];
  out["run/steps"] = summary.steps;
  out["run/seconds"] = summary.seconds;
  if (summary.evaluation) out["eval/returns"] = summary.evaluation->returns;
  if (summary.aggregate) out["run/scores"] = summary.aggregate->scores;
  return out;
}

/// Ctrl-C stops the run at a checkpoint and is KeyboardInterrupt here.
template <class Body>
py::dict interruptible(Body&& body) {
  RunSummary summary;
  {
    const py::gil_scoped_release released;
    const InterruptGuard guard;
    summary = body();
  }
  if (summary.end == RunEnd::interrupted) {
    const std::string text = cat("stopped after ", summary.steps,
                                 " steps; go on with bessemer.resume('", summary.folder, "')");
    PyErr_SetString(PyExc_KeyboardInterrupt, text.c_str());
    throw py::error_already_set();
  }
  return summary_dictionary(summary);
}

}  // namespace

void bind_runs(py::module_& m) {
  m.def("_run", [](const std::string& recipe, const std::vector<std::string>& overrides, bool force,
                   bool announce) {
    return interruptible(
        [&] { return default_runner(announce).run(load_recipe(recipe, overrides), force); });
  });
  m.def("_resume",
        [](const std::string& folder, const std::vector<std::string>& overrides, bool announce) {
          return interruptible([&] { return default_runner(announce).resume(folder, overrides); });
        });
}

}  // namespace bessemer::python

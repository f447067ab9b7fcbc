// One environment: the native half of bessemer.Env. step() and reset() are raw CPython methods.
#include <memory>
#include <new>

#include "envs/render/canvas.h"
#include "envs/render/window.h"
#include "python/native/arguments.h"
#include "python/native/env_values.h"

namespace bessemer::python {
namespace {

struct Core {
  std::unique_ptr<EnvBatch> batch;
  ActionReader actions;
  ObservationWriter writer;
  ObservationWriter::Arrays arrays;
  StepBuffers out;
  float reward = 0;
  uint8_t terminated = 0, truncated = 0, fault = 0;
  std::vector<uint8_t> mask;
  ObservationWriter info_writer;
  std::vector<float> components;
  std::unique_ptr<Canvas> canvas;
  std::unique_ptr<Player> player;  // render_mode "human"
  bool closed_by_user = false;
  Owned random;       // NumPy generator seeded as the last reset; null: not made yet
  Owned seed;         // int, or None
  bool slow = false;  // in another process: every call may wait
  bool show = false;  // draw after every reset and step (render_mode "human")

  explicit Core(std::unique_ptr<EnvBatch> made)
      : batch(std::move(made)),
        actions(batch->spec().action[0], -1),
        writer(batch->spec().observation, -1),
        info_writer(batch->spec().infos, -1),
        seed(Py_NewRef(Py_None)) {
    const Spec& spec = batch->spec();
    out.obs.resize(spec.observation.size());
    out.reward = &reward;
    out.terminated = &terminated;
    out.truncated = &truncated;
    out.fault = &fault;
    if (spec.action_mask) {
      int64_t choices = 0;
      for (const int64_t n : spec.action[0].n) choices += n;
      mask.resize(static_cast<size_t>(choices));
      out.action_mask = mask.data();
    }
    components.resize(spec.rewards.size());
    for (float& value : components) out.rewards.push_back(&value);
  }
  const Canvas& draw() {
    const Spec& spec = batch->spec();
    if (!canvas) canvas = std::make_unique<Canvas>(spec.render_width, spec.render_height);
    batch->render(0, *canvas);
    return *canvas;
  }
  /// Shows the present state; opens the window first. A window that the user closed stays closed.
  void present() {
    if (closed_by_user) return;
    const Canvas& picture = draw();
    const Spec& spec = batch->spec();
    if (!player) {
      player =
          std::make_unique<Player>(spec.id, picture.width(), picture.height(), spec.render_fps);
    }
    player->show(picture);
    if (!player->next()) {
      player.reset();
      closed_by_user = true;
    }
  }
  bool has_info() const {
    return !mask.empty() || !components.empty() || !batch->spec().infos.empty();
  }
};

struct PyEnvCore {
  PyObject_HEAD Core* core;
};

Core& core_of(PyObject* self) {
  Core* core = reinterpret_cast<PyEnvCore*>(self)->core;
  BESSEMER_CHECK(core, ValueError, "the environment is closed or was never made");
  return *core;
}

PyObject* make_info(Core& core, ObservationWriter::Arrays& infos) {
  Owned info = own(PyDict_New());
  if (!core.has_info()) return info.release();
  const Spec& spec = core.batch->spec();
  for (size_t c = 0; c < core.components.size(); ++c) {
    const Owned value = own(PyFloat_FromDouble(core.components[c]));
    check_python(PyDict_SetItemString(info.get(), spec.rewards[c].name.c_str(), value.get()) == 0);
  }
  for (size_t c = 0; c < spec.infos.size(); ++c) {
    PyArrayObject* array = as_array(infos.arrays[c].get());
    const Owned value = own(PyArray_NDIM(array) == 0
                                ? PyArray_GETITEM(array, static_cast<char*>(PyArray_DATA(array)))
                                : Py_NewRef(reinterpret_cast<PyObject*>(array)));
    check_python(PyDict_SetItemString(info.get(), spec.infos[c].name.c_str(), value.get()) == 0);
  }
  if (!core.mask.empty()) {
    const npy_intp shape[] = {static_cast<npy_intp>(core.mask.size())};
    const Owned array = own(new_array(1, shape, NPY_INT8));
    std::copy(core.mask.begin(), core.mask.end(),
              static_cast<uint8_t*>(PyArray_DATA(as_array(array.get()))));
    check_python(PyDict_SetItemString(info.get(), "action_mask", array.get()) == 0);
  }
  return info.release();
}

/// Runs `body` with fresh observation arrays in core.out; returns (observation, info).
template <class Body>
std::pair<Owned, Owned> observed(Core& core, Body&& inner) {
  const auto body = [&] {
    if (!core.slow) return inner();
    struct Released {  // other threads go on meanwhile
      PyThreadState* state = PyEval_SaveThread();
      ~Released() { PyEval_RestoreThread(state); }
    } const released;
    inner();
  };
  ObservationWriter::Arrays infos;
  if (!core.batch->spec().infos.empty()) {
    core.info_writer.prepare(infos);
    core.out.infos = infos.pointers;
  }
  Owned observation;
  if (core.writer.single_array()) {
    observation = own(core.writer.new_only(core.out.obs[0]));
    body();
  } else {
    core.writer.prepare(core.arrays);
    core.out.obs = core.arrays.pointers;
    core.out.ragged_obs = core.arrays.ragged;
    body();
    observation = own(core.writer.finish(core.arrays));
  }
  if (core.fault) [[unlikely]] {
    fail<Error>("[env] ", core.batch->spec().id, " failed: ", core.batch->fault_reason(0));
  }
  return {std::move(observation), own(make_info(core, infos))};
}

PyObject* env_step(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&] {
    if (count != 1 || names) [[unlikely]] {
      const bool keyword =
          count == 0 && names && PyTuple_GET_SIZE(names) == 1 &&
          PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "action") == 0;
      BESSEMER_CHECK(keyword, TypeError, "step() takes one argument, the action");
    }
    Core& core = core_of(self);
    PyObject* action = args[0];
    int64_t wide;
    int32_t narrow;
    Actions actions;
    if (core.actions.is_scalar_integer()) {
      if (PyLong_CheckExact(action)) {
        wide = PyLong_AsLongLong(action);
        check_python(!(wide == -1 && PyErr_Occurred()));
      } else if (PyArray_Check(action) && PyArray_NDIM(as_array(action)) != 0) {
        core.actions.read(action);  // explains the wrong shape
        wide = 0;
      } else {
        wide = integer_from(action, "[step] the action");
      }
      if (core.actions.dtype() == Dtype::i64) {
        actions.data = &wide;
      } else {
        narrow = static_cast<int32_t>(wide);
        BESSEMER_CHECK(narrow == wide, ValueError, "[step] the action ", wide,
                       " is outside its space");
        actions.data = &narrow;
      }
    } else {
      actions = core.actions.read(action);
    }
    auto [observation, info] = observed(core, [&] { core.batch->step(actions, core.out); });
    Owned reward = own(PyFloat_FromDouble(core.reward));
    Owned result = own(PyTuple_New(5));
    PyTuple_SET_ITEM(result.get(), 0, observation.release());
    PyTuple_SET_ITEM(result.get(), 1, reward.release());
    PyTuple_SET_ITEM(result.get(), 2, Py_NewRef(core.terminated ? Py_True : Py_False));
    PyTuple_SET_ITEM(result.get(), 3, Py_NewRef(core.truncated ? Py_True : Py_False));
    PyTuple_SET_ITEM(result.get(), 4, info.release());
    if (core.show) [[unlikely]]
      core.present();
    return result.release();
  });
}

PyObject* env_reset(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&] {
    BESSEMER_CHECK(count == 0, TypeError, "reset() takes seed and options by keyword only");
    static const Signature signature = parse_signature("reset", "seed=None, options=None");
    PyObject* slots[2];
    Owned rest;
    bind_arguments(signature, nullptr, args, 0, names, slots, false, rest);
    Core& core = core_of(self);
    uint64_t seed = 0;
    const bool seeded = slots[0] != Py_None;
    if (seeded) seed = seed_from(slots[0]);
    const Options options = options_from(slots[1], "reset options");
    auto [observation, info] = observed(core, [&] {
      core.batch->reset(seeded ? std::span<const uint64_t>(&seed, 1) : std::span<const uint64_t>(),
                        options, {}, core.out);
    });
    if (seeded) {
      core.seed.reset(Py_NewRef(slots[0]));
      core.random.reset();
    }
    Owned result = own(PyTuple_Pack(2, observation.get(), info.get()));
    if (core.show) core.present();
    return result.release();
  });
}

PyObject* env_save(PyObject* self, PyObject*) {
  return guarded([&] {
    const std::string state = core_of(self).batch->save(0);
    return PyBytes_FromStringAndSize(state.data(), static_cast<Py_ssize_t>(state.size()));
  });
}

PyObject* env_load(PyObject* self, PyObject* state) {
  return guarded([&] {
    BESSEMER_CHECK(PyBytes_Check(state), TypeError, "load() takes the bytes of save(), got ",
                   Py_TYPE(state)->tp_name);
    Core& core = core_of(self);
    core.batch->load(0, {PyBytes_AS_STRING(state), static_cast<size_t>(PyBytes_GET_SIZE(state))});
    auto [observation, info] = observed(core, [&] { core.batch->observe(core.out); });
    return observation.release();
  });
}

PyObject* env_picture(PyObject* self, PyObject*) {
  return guarded([&] {
    const Canvas& canvas = core_of(self).draw();
    const npy_intp shape[] = {canvas.height(), canvas.width(), 3};
    Owned array = own(new_array(3, shape, NPY_UINT8));
    const auto pixels = canvas.pixels();
    std::copy(pixels.begin(), pixels.end(),
              static_cast<uint8_t*>(PyArray_DATA(as_array(array.get()))));
    return array.release();
  });
}

PyObject* env_present(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    core_of(self).present();
    Py_RETURN_NONE;
  });
}

PyObject* env_close(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    if (Core* core = reinterpret_cast<PyEnvCore*>(self)->core) core->player.reset();
    Py_RETURN_NONE;
  });
}

PyObject* env_spec_dictionary(PyObject* self, void*) {
  return guarded([&] { return spec_dictionary(core_of(self).batch->spec()); });
}
PyObject* get_show(PyObject* self, void*) {
  return guarded([&] { return PyBool_FromLong(core_of(self).show); });
}
int put_show(PyObject* self, PyObject* value, void*) {
  return guarded_int([&] {
    core_of(self).show = value == Py_True;
    return 0;
  });
}

/// The generator that Gymnasium's interface promises: seeded as the environment was. The simulator
/// draws from its own copy of the same stream, so using this one does not disturb episodes.
PyObject* get_random(PyObject* self, void*) {
  return guarded([&]() -> PyObject* {
    Core& core = core_of(self);
    if (!core.random) {
      const Owned module = own(PyImport_ImportModule("numpy.random"));
      core.random = own(PyObject_CallMethod(module.get(), "default_rng", "(O)", core.seed.get()));
    }
    return Py_NewRef(core.random.get());
  });
}
int put_random(PyObject* self, PyObject* value, void*) {
  return guarded_int([&] {
    core_of(self).random.reset(value && value != Py_None ? Py_NewRef(value) : nullptr);
    return 0;
  });
}
PyObject* get_random_seed(PyObject* self, void*) {
  return guarded([&] { return Py_NewRef(core_of(self).seed.get()); });
}
int put_random_seed(PyObject* self, PyObject* value, void*) {
  return guarded_int([&] {
    core_of(self).seed.reset(Py_NewRef(value ? value : Py_None));
    return 0;
  });
}

int env_init(PyObject* self, PyObject* args, PyObject* keywords) {
  return guarded_int([&] {
    static const char* names[] = {"id", "options", "max_episode_steps", "check_actions", nullptr};
    PyObject *id, *options = Py_None, *limit = Py_None;
    int check = 1;
    check_python(PyArg_ParseTupleAndKeywords(args, keywords, "O|OOp", const_cast<char**>(names),
                                             &id, &options, &limit, &check));
    BatchOptions settings;
    settings.options = options_from(options, "option");
    settings.autoreset = Autoreset::disabled;
    settings.arithmetic = Arithmetic::plain;  // bit-equal to Gymnasium, and faster for one instance
    settings.check_actions = check;
    if (limit != Py_None) settings.max_episode_steps = integer_from(limit, "max_episode_steps");
    const std::string name = text_of(id, "environment id");
    auto batch = make_batch(name, settings);
    BESSEMER_CHECK(batch->spec().rows == 1, ValueError, "[env] ", batch->spec().id, " has ",
                   batch->spec().rows, " agents: make_vec steps it");
    auto core = std::make_unique<Core>(std::move(batch));
    core->slow = in_processes(name);
    auto* object = reinterpret_cast<PyEnvCore*>(self);
    delete object->core;
    object->core = core.release();
    return 0;
  });
}

PyObject* env_new(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* self = type->tp_alloc(type, 0);
  if (self) reinterpret_cast<PyEnvCore*>(self)->core = nullptr;
  return self;
}

void env_free(PyObject* self) {
  delete reinterpret_cast<PyEnvCore*>(self)->core;
  Py_TYPE(self)->tp_free(self);
}

PyMethodDef methods[] = {
    {"step", as_method(env_step), METH_FASTCALL | METH_KEYWORDS,
     "step($self, action)\n--\n\n(observation, reward, terminated, truncated, info), all fresh "
     "objects."},
    {"reset", as_method(env_reset), METH_FASTCALL | METH_KEYWORDS,
     "reset($self, *, seed=None, options=None)\n--\n\nStarts an episode: (observation, info)."},
    {"save", env_save, METH_NOARGS,
     "save($self)\n--\n\nThe whole state, generator included, as bytes."},
    {"load", env_load, METH_O,
     "load($self, state)\n--\n\nTakes up a saved state; returns its observation."},
    {"close", env_close, METH_NOARGS, "close($self)\n--\n\nCloses the window, if one is open."},
    {"_picture", env_picture, METH_NOARGS, nullptr},
    {"_present", env_present, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyGetSetDef properties[] = {{"_spec", env_spec_dictionary, nullptr, nullptr, nullptr},
                            {"_show_always", get_show, put_show, nullptr, nullptr},
                            {"_np_random", get_random, put_random, nullptr, nullptr},
                            {"_np_random_seed", get_random_seed, put_random_seed, nullptr, nullptr},
                            {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyTypeObject env_type = {PyVarObject_HEAD_INIT(nullptr, 0)};

PyObject* list_ids(PyObject*, PyObject*) {
  return guarded([&] {
    const std::vector<std::string> ids = env_ids();
    Owned list = own(PyList_New(0));
    for (const std::string& id : ids) {
      check_python(PyList_Append(list.get(), own(PyUnicode_FromString(id.c_str())).get()) == 0);
    }
    return list.release();
  });
}
PyObject* describe(PyObject*, PyObject* id) {
  return guarded([&] { return spec_dictionary(env_spec(text_of(id, "environment id"))); });
}

PyMethodDef functions[] = {
    {"env_ids", list_ids, METH_NOARGS, "env_ids()\n--\n\nIds of all environments, sorted."},
    {"env_spec", describe, METH_O,
     "env_spec(id)\n--\n\nWhat an environment says of itself, as a dict."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

bool add_vector_environment(PyObject* module);  // env_vector.cpp

bool add_environments(PyObject* module) {
  env_type.tp_name = "bessemer._native.EnvCore";
  env_type.tp_basicsize = sizeof(PyEnvCore);
  env_type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE;
  env_type.tp_new = env_new;
  env_type.tp_init = env_init;
  env_type.tp_dealloc = env_free;
  env_type.tp_methods = methods;
  env_type.tp_getset = properties;
  return PyType_Ready(&env_type) == 0 &&
         PyModule_AddObjectRef(module, "EnvCore", reinterpret_cast<PyObject*>(&env_type)) == 0 &&
         PyModule_AddFunctions(module, functions) == 0 && add_vector_environment(module);
}

}  // namespace bessemer::python

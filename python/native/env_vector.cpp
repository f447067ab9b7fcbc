// A batch of environments: the native half of bessemer.VectorEnv.
#include "python/native/env_vector.h"

#include <cstring>
#include <map>
#include <memory>

#include "python/native/arguments.h"
#ifdef BESSEMER_HAS_WIRE
#include "envs/client/remote_batch.h"
#endif

namespace bessemer::python {
namespace {

/// Batches below this many rows step faster than another thread could take the interpreter.
constexpr int64_t kReleaseRows = 64;

/// One pool for each number of threads, shared by the environments that ask for it.
std::shared_ptr<ThreadPool> shared_pool(int threads) {
  static std::map<int, std::weak_ptr<ThreadPool>> pools;
  std::shared_ptr<ThreadPool> pool = pools[threads].lock();
  if (!pool) pools[threads] = pool = std::make_shared<ThreadPool>(threads);
  return pool;
}

struct PyVectorCore {
  PyObject_HEAD VectorCore* core;
};

VectorCore& core_of(PyObject* self) {
  VectorCore* core = reinterpret_cast<PyVectorCore*>(self)->core;
  BESSEMER_CHECK(core, ValueError, "the environments are closed or were never made");
  BESSEMER_CHECK(!core->busy, Error, "[env] another thread is stepping these environments");
  return *core;
}

/// Calls `body` without the interpreter's lock where the batch is worth it.
template <class Body>
void without_lock(VectorCore& core, Body&& body) {
  if (core.rows < kReleaseRows && !core.remote) {
    body();
    return;
  }
  struct Released {
    VectorCore& core;
    PyThreadState* state;
    explicit Released(VectorCore& c) : core(c) {
      core.busy = true;
      state = PyEval_SaveThread();
    }
    ~Released() {
      PyEval_RestoreThread(state);
      core.busy = false;
    }
  } const released(core);
  body();
}

void point_at(VectorCore& core, const Results& results) {
  core.out.obs = results.obs.pointers;
  core.out.ragged_obs = results.obs.ragged;
  core.out.terminated = data_of<uint8_t>(results.terminated);
  core.out.truncated = data_of<uint8_t>(results.truncated);
}

PyObject* vector_step(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&] {
    if (count != 1 || names) [[unlikely]] {
      const bool keyword =
          count == 0 && names && PyTuple_GET_SIZE(names) == 1 &&
          PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "actions") == 0;
      BESSEMER_CHECK(keyword, TypeError, "step() takes one argument, the actions");
    }
    VectorCore& core = core_of(self);
    const Actions actions = core.actions.read(args[0]);
    Results fresh;
    Results& results = core.copy ? fresh : core.kept;
    if (core.copy) core.make_results(fresh);
    point_at(core, results);
    RowInfos infos;
    infos.prepare(core, core.rows);
    without_lock(core, [&] { core.batch->step(actions, core.out); });
    return finish_step(core, results, core.rows, nullptr, infos);
  });
}

PyObject* vector_send(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&]() -> PyObject* {
    static const Signature signature = parse_signature("send", "actions, ids=None");
    PyObject* slots[2];
    Owned rest;
    bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
    VectorCore& core = core_of(self);
    std::vector<int64_t> ids;
    if (slots[1] == Py_None) {
      for (int64_t i = 0; i < core.batch->num_envs(); ++i) ids.push_back(i);
    } else {
      const Owned array = own(PyArray_FROM_OTF(slots[1], NPY_INT64, NPY_ARRAY_CARRAY_RO));
      const int64_t* data = data_of<int64_t>(array);
      ids.assign(data, data + PyArray_SIZE(as_array(array.get())));
    }
    const int64_t rows = static_cast<int64_t>(ids.size()) * core.batch->spec().rows;
    core.batch->send(core.actions.read_rows(slots[0], rows), ids);
    Py_RETURN_NONE;
  });
}

/// The first `rows` rows of an array, as an array of their own.
Owned head(const Owned& array, int64_t rows) {
  const Owned part = own(PySequence_GetSlice(array.get(), 0, rows));
  return own(PyArray_NewCopy(as_array(part.get()), NPY_CORDER));
}

PyObject* vector_recv(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&] {
    static const Signature signature = parse_signature("recv", "at_least=None");
    PyObject* slots[1];
    Owned rest;
    bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
    VectorCore& core = core_of(self);
    const int64_t wanted = slots[0] == Py_None ? 1 : integer_from(slots[0], "[recv] at_least");
    Results results;
    core.make_results(results);
    point_at(core, results);
    RowInfos infos;
    infos.prepare(core, core.rows);
    core.ids.resize(static_cast<size_t>(core.batch->num_envs()));
    int64_t got = 0;
    without_lock(core, [&] { got = core.batch->recv(wanted, core.out, core.ids); });
    const int64_t rows = got * core.batch->spec().rows;
    for (Owned& array : results.obs.arrays) {
      if (array) array = head(array, rows);
    }
    results.reward = head(results.reward, rows);
    results.terminated = head(results.terminated, rows);
    results.truncated = head(results.truncated, rows);
    for (Owned& array : infos.channels) array = head(array, rows);
    if (infos.mask) infos.mask = head(infos.mask, rows);
    const Owned step = own(finish_step(core, results, rows, core.ids.data(), infos));
    const Owned ids = vector_array(got, NPY_INT64, false);
    std::copy_n(core.ids.begin(), got, data_of<int64_t>(ids));
    Owned tuple = own(PyTuple_New(6));
    for (int i = 0; i < 5; ++i)
      PyTuple_SET_ITEM(tuple.get(), i, Py_NewRef(PyTuple_GET_ITEM(step.get(), i)));
    PyTuple_SET_ITEM(tuple.get(), 5, Py_NewRef(ids.get()));
    return tuple.release();
  });
}

/// Seeds as SyncVectorEnv: an int is seed, seed + 1, ...; a sequence has one an environment.
std::vector<uint64_t> seeds_from(PyObject* object, int64_t envs) {
  std::vector<uint64_t> seeds;
  if (object == Py_None) return seeds;
  if (PyLong_Check(object) || PyArray_IsScalar(object, Integer)) {
    const uint64_t first = seed_from(object);
    for (int64_t i = 0; i < envs; ++i) seeds.push_back(first + static_cast<uint64_t>(i));
    return seeds;
  }
  BESSEMER_CHECK(!PyUnicode_Check(object) && PySequence_Check(object), TypeError,
                 "seed: expected an int or a sequence of ints, got ", Py_TYPE(object)->tp_name);
  const Owned items = own(PySequence_Fast(object, "seed: expected an int or a sequence of ints"));
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(items.get());
  BESSEMER_CHECK(count == envs, ValueError, "seed: ", count, " seeds for ", envs, " environments");
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* item = PySequence_Fast_GET_ITEM(items.get(), i);
    BESSEMER_CHECK(
        item != Py_None, ValueError,
        "seed: some environments have a seed and some have none; pass reset_mask instead");
    seeds.push_back(seed_from(item));
  }
  return seeds;
}

PyObject* vector_reset(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&] {
    BESSEMER_CHECK(count == 0, TypeError, "reset() takes seed and options by keyword only");
    static const Signature signature = parse_signature("reset", "seed=None, options=None");
    PyObject* slots[2];
    Owned rest;
    bind_arguments(signature, nullptr, args, 0, names, slots, false, rest);
    VectorCore& core = core_of(self);
    const int64_t envs = core.batch->num_envs();
    std::vector<uint64_t> seeds = seeds_from(slots[0], envs);
    std::vector<uint8_t> mask;
    Owned options(Py_NewRef(slots[1]));
    if (PyDict_Check(slots[1])) {
      PyObject* given = PyDict_GetItemString(slots[1], "reset_mask");
      if (given) {
        BESSEMER_CHECK(PyArray_Check(given) && PyArray_TYPE(as_array(given)) == NPY_BOOL, TypeError,
                       "options['reset_mask'] is a NumPy array of bool");
        BESSEMER_CHECK(
            PyArray_NDIM(as_array(given)) == 1 && PyArray_DIM(as_array(given), 0) == envs,
            ValueError, "options['reset_mask'] has another shape than (", envs, ",)");
        const Owned dense = own(PyArray_FROM_OTF(given, NPY_BOOL, NPY_ARRAY_CARRAY_RO));
        mask.assign(data_of<uint8_t>(dense), data_of<uint8_t>(dense) + envs);
        BESSEMER_CHECK(any_set(mask.data(), envs), ValueError,
                       "options['reset_mask'] selects no environment");
        options = own(PyDict_Copy(slots[1]));
        check_python(PyDict_DelItemString(options.get(), "reset_mask") == 0);
        if (!seeds.empty()) {
          std::vector<uint64_t> chosen;
          for (int64_t i = 0; i < envs; ++i) {
            if (mask[i]) chosen.push_back(seeds[i]);
          }
          seeds = std::move(chosen);
        }
      }
    }
    const Options settings = options_from(options.get(), "reset options");
    Results fresh;
    Results& results = core.copy ? fresh : core.kept;
    if (core.copy) core.make_results(fresh);
    point_at(core, results);
    RowInfos infos;
    infos.prepare(core, core.rows);
    without_lock(core, [&] { core.batch->reset(seeds, settings, mask, core.out); });
    if (core.statistics) {
      const double now = clock_seconds();
      const int agents = core.batch->spec().rows;
      for (int64_t row = 0; row < core.rows; ++row) {
        if (mask.empty() || mask[row / agents]) core.started[row] = now;
      }
    }
    Owned dictionary = own(PyDict_New());
    infos.add(core, core.rows, dictionary.get());
    if (any_set(core.fault.data(), core.rows))
      add_faults(core, core.rows, nullptr, dictionary.get());
    const Owned observation = own(core.writer.finish(results.obs));
    return PyTuple_Pack(2, observation.get(), dictionary.get());
  });
}

PyObject* vector_save(PyObject* self, PyObject*) {
  return guarded([&] {
    VectorCore& core = core_of(self);
    Owned list = own(PyList_New(0));
    for (int64_t i = 0; i < core.batch->num_envs(); ++i) {
      const std::string state = core.batch->save(i);
      const Owned bytes =
          own(PyBytes_FromStringAndSize(state.data(), static_cast<Py_ssize_t>(state.size())));
      check_python(PyList_Append(list.get(), bytes.get()) == 0);
    }
    return list.release();
  });
}

PyObject* vector_load(PyObject* self, PyObject* states) {
  return guarded([&] {
    VectorCore& core = core_of(self);
    const Owned items = own(PySequence_Fast(states, "load() takes the list of save()"));
    BESSEMER_CHECK(PySequence_Fast_GET_SIZE(items.get()) == core.batch->num_envs(), ValueError,
                   "load(): ", PySequence_Fast_GET_SIZE(items.get()), " states for ",
                   core.batch->num_envs(), " environments");
    for (int64_t i = 0; i < core.batch->num_envs(); ++i) {
      PyObject* state = PySequence_Fast_GET_ITEM(items.get(), i);
      BESSEMER_CHECK(PyBytes_Check(state), TypeError, "load() takes the list of save(), got a ",
                     Py_TYPE(state)->tp_name, " in it");
      core.batch->load(i, {PyBytes_AS_STRING(state), static_cast<size_t>(PyBytes_GET_SIZE(state))});
    }
    Results results;
    core.make_results(results);
    point_at(core, results);
    RowInfos infos;
    infos.prepare(core, core.rows);
    core.batch->observe(core.out);
    return core.writer.finish(results.obs);
  });
}

PyObject* vector_picture(PyObject* self, PyObject* index) {
  return guarded([&] {
    VectorCore& core = core_of(self);
    if (!core.canvas) {
      const Spec& spec = core.batch->spec();
      core.canvas = std::make_unique<Canvas>(spec.render_width, spec.render_height);
    }
    core.batch->render(integer_from(index, "render"), *core.canvas);
    const npy_intp shape[] = {core.canvas->height(), core.canvas->width(), 3};
    Owned array = own(new_array(3, shape, NPY_UINT8));
    const auto pixels = core.canvas->pixels();
    std::copy(pixels.begin(), pixels.end(), data_of<uint8_t>(array));
    return array.release();
  });
}

PyObject* get_final_obs(PyObject* self, void*) {
  return guarded([&]() -> PyObject* {
    VectorCore& core = core_of(self);
    if (core.batch->autoreset() != Autoreset::same_step) Py_RETURN_NONE;
    return core.writer.finish(core.final_obs);
  });
}
PyObject* get_spec(PyObject* self, void*) {
  return guarded([&] { return spec_dictionary(core_of(self).batch->spec()); });
}

/// Environments of a server. Without the lock: the server may be a thread of this interpreter.
std::unique_ptr<EnvBatch> connected(const std::string& address, const std::string& id,
                                    const BatchOptions& options, const std::string& keys,
                                    const std::string& token) {
#ifdef BESSEMER_HAS_WIRE
  RemoteOptions remote;
  read_credentials(keys, token, remote);
  struct Released {
    PyThreadState* state = PyEval_SaveThread();
    ~Released() { PyEval_RestoreThread(state); }
  } const released;
  return connect_batch(address, id, options, remote);
#else
  (void)options, (void)keys, (void)token;
  fail<ValueError>("[env] cannot connect to ", address, " for ", id,
                   ": this build has no ZeroMQ (feature 'wire')");
#endif
}

int vector_init(PyObject* self, PyObject* args, PyObject* keywords) {
  return guarded_int([&] {
    static const char* names[] = {"id",
                                  "num_envs",
                                  "threads",
                                  "autoreset",
                                  "copy",
                                  "options",
                                  "max_episode_steps",
                                  "statistics",
                                  "check_actions",
                                  "arithmetic",
                                  "address",
                                  "keys",
                                  "token",
                                  nullptr};
    PyObject *id, *num_envs, *autoreset, *options = Py_None, *limit = Py_None, *build = nullptr,
                                         *address = Py_None, *keys = Py_None, *token = Py_None;
    int threads = 1, copy = 1, statistics = 1, check = 1;
    check_python(PyArg_ParseTupleAndKeywords(
        args, keywords, "OOiO|pOOppOOOO", const_cast<char**>(names), &id, &num_envs, &threads,
        &autoreset, &copy, &options, &limit, &statistics, &check, &build, &address, &keys, &token));
    BESSEMER_CHECK(threads >= 0, ValueError, "threads is ", threads,
                   ", expected 0 (all cores) or more");
    BatchOptions settings;
    settings.num_envs = integer_from(num_envs, "num_envs");
    settings.options = options_from(options, "option");
    settings.check_actions = check;
    if (limit != Py_None) settings.max_episode_steps = integer_from(limit, "max_episode_steps");
    const std::string mode = text_of(autoreset, "autoreset_mode");
    const std::vector<std::string> modes = {"next_step", "same_step", "disabled"};
    bool known = false;
    for (size_t i = 0; i < modes.size(); ++i) {
      if (mode != modes[i]) continue;
      settings.autoreset = static_cast<Autoreset>(i);
      known = true;
    }
    BESSEMER_CHECK(known, ValueError, "unknown autoreset_mode '", mode, "'",
                   did_you_mean(mode, modes));
    if (build) {
      const std::string name = text_of(build, "arithmetic");
      const std::vector<std::string> builds = {"lanes", "plain"};
      BESSEMER_CHECK(name == builds[0] || name == builds[1], ValueError, "unknown arithmetic '",
                     name, "'", did_you_mean(name, builds));
      settings.arithmetic = name == builds[1] ? Arithmetic::plain : Arithmetic::lanes;
    }
    std::shared_ptr<ThreadPool> pool;
    if (threads == 0) threads = core_count();
    if (threads > 1) pool = shared_pool(threads);
    settings.pool = pool.get();
    const bool remote = address != Py_None;
    const std::string name = text_of(id, "environment id");
    const auto file = [](PyObject* path, const char* what) {
      return path == Py_None ? std::string() : text_of(path, what);
    };
    auto batch = remote ? connected(text_of(address, "address"), name, settings, file(keys, "keys"),
                                    file(token, "token"))
                        : make_batch(name, settings);
    auto core = std::make_unique<VectorCore>(pool, std::move(batch), copy, statistics);
    core->remote = remote || in_processes(name);
    auto* object = reinterpret_cast<PyVectorCore*>(self);
    BESSEMER_CHECK(!object->core || !object->core->busy, Error,
                   "[env] another thread is stepping these environments");
    delete object->core;
    object->core = core.release();
    return 0;
  });
}

PyObject* vector_new(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* self = type->tp_alloc(type, 0);
  if (self) reinterpret_cast<PyVectorCore*>(self)->core = nullptr;
  return self;
}

void vector_free(PyObject* self) {
  delete reinterpret_cast<PyVectorCore*>(self)->core;
  Py_TYPE(self)->tp_free(self);
}

PyMethodDef methods[] = {
    {"step", as_method(vector_step), METH_FASTCALL | METH_KEYWORDS,
     "step($self, actions)\n--\n\n(observations, rewards, terminations, truncations, infos)."},
    {"reset", as_method(vector_reset), METH_FASTCALL | METH_KEYWORDS,
     "reset($self, *, seed=None, options=None)\n--\n\nStarts episodes: (observations, infos)."},
    {"send", as_method(vector_send), METH_FASTCALL | METH_KEYWORDS,
     "send($self, actions, ids=None)\n--\n\nQueues actions for the environments `ids` (all)."},
    {"recv", as_method(vector_recv), METH_FASTCALL | METH_KEYWORDS,
     "recv($self, at_least=None)\n--\n\n"
     "Results of sent environments: what step returns for them, and their ids."},
    {"save", vector_save, METH_NOARGS,
     "save($self)\n--\n\nThe state of every environment, as bytes."},
    {"load", vector_load, METH_O,
     "load($self, states)\n--\n\nTakes up saved states; returns observations."},
    {"_picture", vector_picture, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyGetSetDef properties[] = {
    {"_spec", get_spec, nullptr, nullptr, nullptr},
    {"final_obs", get_final_obs, nullptr,
     "Last observations of the rows that ended most recently, dense (same_step only, else None).",
     nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyTypeObject vector_type = {PyVarObject_HEAD_INIT(nullptr, 0)};

}  // namespace

bool add_vector_environment(PyObject* module) {
  vector_type.tp_name = "bessemer._native.VectorEnvCore";
  vector_type.tp_basicsize = sizeof(PyVectorCore);
  vector_type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE;
  vector_type.tp_new = vector_new;
  vector_type.tp_init = vector_init;
  vector_type.tp_dealloc = vector_free;
  vector_type.tp_methods = methods;
  vector_type.tp_getset = properties;
  return PyType_Ready(&vector_type) == 0 &&
         PyModule_AddObjectRef(module, "VectorEnvCore",
                               reinterpret_cast<PyObject*>(&vector_type)) == 0;
}

}  // namespace bessemer::python

// A batch of environments: the native half of bessemer.VectorEnv.
#include <chrono>
#include <cstring>
#include <map>
#include <memory>

#include "envs/render/canvas.h"
#include "python/native/arguments.h"
#include "python/native/env_values.h"

namespace bessemer::python {
namespace {

/// Batches below this many rows step faster than another thread could take the interpreter.
constexpr int64_t kReleaseRows = 64;

double clock_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// One pool for each number of threads, shared by the environments that ask for it.
std::shared_ptr<ThreadPool> shared_pool(int threads) {
  static std::map<int, std::weak_ptr<ThreadPool>> pools;
  std::shared_ptr<ThreadPool> pool = pools[threads].lock();
  if (!pool) pools[threads] = pool = std::make_shared<ThreadPool>(threads);
  return pool;
}

/// Arrays of one step's results.
struct Results {
  ObservationWriter::Arrays obs;
  Owned reward, terminated, truncated;  // float64, bool, bool
};

struct Core {
  std::shared_ptr<ThreadPool> pool;
  std::unique_ptr<EnvBatch> batch;
  int64_t rows;
  ActionReader actions;
  ObservationWriter writer;
  bool copy, statistics;
  StepBuffers out;
  Results kept;                         // copy=False: what every step returns
  ObservationWriter::Arrays final_obs;  // dense, same_step only
  Owned final_value;                    // the same as a Python value
  std::vector<float> reward, episode_return;
  std::vector<int64_t> episode_length;
  std::vector<uint8_t> fault, ended;  // `ended`: the last step ended the row's episode
  std::vector<double> started;        // clock at the start of each row's episode
  std::vector<std::vector<float>> components;
  std::vector<int64_t> ids;
  int64_t choices = 0;  // of the action mask
  std::unique_ptr<Canvas> canvas;

  Core(std::shared_ptr<ThreadPool> threads, std::unique_ptr<EnvBatch> made, bool fresh, bool stats)
      : pool(std::move(threads)),
        batch(std::move(made)),
        rows(batch->rows()),
        actions(batch->spec().action[0], rows),
        writer(batch->spec().observation, rows),
        copy(fresh),
        statistics(stats) {
    const auto count = static_cast<size_t>(rows);
    const Spec& spec = batch->spec();
    reward.resize(count);
    fault.resize(count);
    ended.resize(count);
    out.reward = reward.data();
    out.fault = fault.data();
    if (statistics) {
      episode_return.resize(count);
      episode_length.resize(count);
      started.resize(count, clock_seconds());
      out.episode_return = episode_return.data();
      out.episode_length = episode_length.data();
    }
    if (batch->autoreset() == Autoreset::same_step) {
      writer.prepare(final_obs);
      for (size_t c = 0; c < final_obs.arrays.size(); ++c) {
        if (final_obs.arrays[c]) {
          PyArrayObject* array = as_array(final_obs.arrays[c].get());
          std::memset(PyArray_DATA(array), 0, static_cast<size_t>(PyArray_NBYTES(array)));
        }
      }
      out.final_obs = final_obs.pointers;
      out.ragged_final_obs = final_obs.ragged;
    }
    components.assign(spec.rewards.size(), std::vector<float>(count));
    for (auto& values : components) out.rewards.push_back(values.data());
    if (spec.action_mask) {
      for (const int64_t n : spec.action[0].n) choices += n;
    }
    if (!copy) make_results(kept);
  }

  void make_results(Results& results) {
    const npy_intp shape[] = {rows};
    writer.prepare(results.obs);
    results.reward = own(new_array(1, shape, NPY_FLOAT64));
    results.terminated = own(new_array(1, shape, NPY_BOOL));
    results.truncated = own(new_array(1, shape, NPY_BOOL));
  }
};

struct PyVectorCore {
  PyObject_HEAD Core* core;
};

Core& core_of(PyObject* self) {
  Core* core = reinterpret_cast<PyVectorCore*>(self)->core;
  BESSEMER_CHECK(core, ValueError, "the environments are closed or were never made");
  return *core;
}

Owned vector_array(int64_t rows, int type, bool zeroed) {
  npy_intp shape[] = {rows};
  return own(zeroed ? PyArray_ZEROS(1, shape, type, 0) : PyArray_SimpleNew(1, shape, type));
}
template <class T>
T* data_of(const Owned& array) {
  return static_cast<T*>(PyArray_DATA(as_array(array.get())));
}
void put(PyObject* dictionary, const char* key, const Owned& value) {
  check_python(PyDict_SetItemString(dictionary, key, value.get()) == 0);
}
Owned full_mask(int64_t rows) {
  Owned mask = vector_array(rows, NPY_BOOL, false);
  std::memset(data_of<uint8_t>(mask), 1, static_cast<size_t>(rows));
  return mask;
}

/// Calls `body` without the interpreter's lock where the batch is worth it.
template <class Body>
void without_lock(int64_t rows, Body&& body) {
  if (rows < kReleaseRows) {
    body();
    return;
  }
  struct Released {
    PyThreadState* state = PyEval_SaveThread();
    ~Released() { PyEval_RestoreThread(state); }
  } const released;
  body();
}

/// Arrays for what every row has: action mask, reward components, info channels.
struct RowInfos {
  std::vector<Owned> channels;
  Owned mask;

  void prepare(Core& core, int64_t rows) {
    const Spec& spec = core.batch->spec();
    core.out.infos.clear();
    for (const Channel& channel : spec.infos) {
      npy_intp shape[kMaxDims + 1] = {rows};
      int ndim = 1;
      for (const int64_t size : channel.shape) shape[ndim++] = size;
      channels.push_back(own(new_array(ndim, shape, numpy_type(channel.dtype))));
      core.out.infos.push_back(PyArray_DATA(as_array(channels.back().get())));
    }
    if (core.choices > 0) {
      const npy_intp shape[] = {rows, core.choices};
      mask = own(new_array(2, shape, NPY_INT8));
      core.out.action_mask = data_of<uint8_t>(mask);
    }
  }
  void add(const Core& core, int64_t rows, PyObject* infos) const {
    const Spec& spec = core.batch->spec();
    if (channels.empty() && !mask && core.components.empty()) return;
    const Owned everywhere = full_mask(rows);
    const auto add_one = [&](const std::string& name, const Owned& value) {
      put(infos, name.c_str(), value);
      put(infos, ("_" + name).c_str(), everywhere);
    };
    for (size_t c = 0; c < channels.size(); ++c) add_one(spec.infos[c].name, channels[c]);
    for (size_t c = 0; c < core.components.size(); ++c) {
      const Owned array = vector_array(rows, NPY_FLOAT32, false);
      std::memcpy(data_of<float>(array), core.components[c].data(),
                  static_cast<size_t>(rows) * sizeof(float));
      add_one(spec.rewards[c].name, array);
    }
    if (mask) add_one("action_mask", mask);
  }
};

/// True where any of the flags is set; they are 0 or 1.
bool any_set(const uint8_t* flags, int64_t count) {
  int64_t i = 0;
  uint64_t all = 0;
  for (; i + 8 <= count; i += 8) {
    uint64_t word;
    std::memcpy(&word, flags + i, 8);
    all |= word;
  }
  for (; i < count; ++i) all |= flags[i];
  return all != 0;
}

/// What only rows that ended or failed in this step have, as Gymnasium's wrappers lay it out.
void add_endings(Core& core, const uint8_t* ended, int64_t rows, const int64_t* ids,
                 PyObject* infos) {
  Owned mask = vector_array(rows, NPY_BOOL, false);
  std::memcpy(data_of<uint8_t>(mask), ended, static_cast<size_t>(rows));
  if (core.statistics) {
    const Owned returns = vector_array(rows, NPY_FLOAT64, true),
                lengths = vector_array(rows, NPY_INT64, true),
                times = vector_array(rows, NPY_FLOAT64, true);
    const double now = clock_seconds();
    for (int64_t i = 0; i < rows; ++i) {
      if (!ended[i]) continue;
      const int64_t at = ids ? ids[i] : i;
      data_of<double>(returns)[i] = core.episode_return[i];
      data_of<int64_t>(lengths)[i] = core.episode_length[i];
      data_of<double>(times)[i] = now - core.started[at];
      core.started[at] = now;
    }
    const Owned episode = own(PyDict_New());
    put(episode.get(), "r", returns);
    put(episode.get(), "l", lengths);
    put(episode.get(), "t", times);
    put(infos, "episode", episode);
    put(infos, "_episode", mask);
  }
  if (core.batch->autoreset() == Autoreset::same_step) {
    const Owned each = vector_array(rows, NPY_OBJECT, true);
    for (int64_t i = 0; i < rows; ++i) {
      if (!ended[i]) continue;
      // ZEROS of objects holds None or null; both are replaced here.
      Owned value = own(core.writer.row(core.final_obs, i));
      PyObject** slot = data_of<PyObject*>(each) + i;
      Py_XSETREF(*slot, value.release());
    }
    for (int64_t i = 0; i < rows; ++i) {
      PyObject** slot = data_of<PyObject*>(each) + i;
      if (!ended[i]) Py_XSETREF(*slot, Py_NewRef(Py_None));
    }
    put(infos, "final_obs", each);
    put(infos, "_final_obs", mask);
    put(infos, "final_info", own(PyDict_New()));
    put(infos, "_final_info", mask);
  }
}

void add_faults(Core& core, int64_t rows, const int64_t* ids, PyObject* infos) {
  const Owned reasons = vector_array(rows, NPY_OBJECT, true),
              mask = vector_array(rows, NPY_BOOL, false);
  for (int64_t i = 0; i < rows; ++i) {
    data_of<uint8_t>(mask)[i] = core.fault[i] != 0;
    Owned reason(core.fault[i]
                     ? own(PyUnicode_FromString(core.batch->fault_reason(ids ? ids[i] : i).c_str()))
                     : Owned(Py_NewRef(Py_None)));
    Py_XSETREF(data_of<PyObject*>(reasons)[i], reason.release());
  }
  put(infos, "fault", reasons);
  put(infos, "_fault", mask);
}

/// The 5-tuple of `rows` rows whose arrays `results` holds.
PyObject* finish_step(Core& core, const Results& results, int64_t rows, const int64_t* ids,
                      const RowInfos& row_infos) {
  double* reward = data_of<double>(results.reward);
  for (int64_t i = 0; i < rows; ++i) reward[i] = core.reward[i];
  const uint8_t* terminated = data_of<uint8_t>(results.terminated);
  const uint8_t* truncated = data_of<uint8_t>(results.truncated);
  for (int64_t i = 0; i < rows; ++i) core.ended[i] = terminated[i] | truncated[i];
  Owned infos = own(PyDict_New());
  row_infos.add(core, rows, infos.get());
  if (any_set(core.ended.data(), rows))
    add_endings(core, core.ended.data(), rows, ids, infos.get());
  if (any_set(core.fault.data(), rows)) add_faults(core, rows, ids, infos.get());
  Owned observation = own(core.writer.finish(results.obs));
  Owned tuple = own(PyTuple_New(5));
  PyTuple_SET_ITEM(tuple.get(), 0, observation.release());
  PyTuple_SET_ITEM(tuple.get(), 1, Py_NewRef(results.reward.get()));
  PyTuple_SET_ITEM(tuple.get(), 2, Py_NewRef(results.terminated.get()));
  PyTuple_SET_ITEM(tuple.get(), 3, Py_NewRef(results.truncated.get()));
  PyTuple_SET_ITEM(tuple.get(), 4, infos.release());
  return tuple.release();
}

void point_at(Core& core, const Results& results) {
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
    Core& core = core_of(self);
    const Actions actions = core.actions.read(args[0]);
    Results fresh;
    Results& results = core.copy ? fresh : core.kept;
    if (core.copy) core.make_results(fresh);
    point_at(core, results);
    RowInfos infos;
    infos.prepare(core, core.rows);
    without_lock(core.rows, [&] { core.batch->step(actions, core.out); });
    return finish_step(core, results, core.rows, nullptr, infos);
  });
}

PyObject* vector_send(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  return guarded([&]() -> PyObject* {
    static const Signature signature = parse_signature("send", "actions, ids=None");
    PyObject* slots[2];
    Owned rest;
    bind_arguments(signature, nullptr, args, count, names, slots, false, rest);
    Core& core = core_of(self);
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
    Core& core = core_of(self);
    const int64_t wanted = slots[0] == Py_None ? 1 : integer_from(slots[0], "[recv] at_least");
    Results results;
    core.make_results(results);
    point_at(core, results);
    RowInfos infos;
    infos.prepare(core, core.rows);
    core.ids.resize(static_cast<size_t>(core.batch->num_envs()));
    int64_t got = 0;
    without_lock(core.rows, [&] { got = core.batch->recv(wanted, core.out, core.ids); });
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
    Core& core = core_of(self);
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
    without_lock(core.rows, [&] { core.batch->reset(seeds, settings, mask, core.out); });
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
    Core& core = core_of(self);
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
    Core& core = core_of(self);
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
    Core& core = core_of(self);
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
    Core& core = core_of(self);
    if (core.batch->autoreset() != Autoreset::same_step) Py_RETURN_NONE;
    return core.writer.finish(core.final_obs);
  });
}
PyObject* get_spec(PyObject* self, void*) {
  return guarded([&] { return spec_dictionary(core_of(self).batch->spec()); });
}

int vector_init(PyObject* self, PyObject* args, PyObject* keywords) {
  return guarded_int([&] {
    static const char* names[] = {
        "id",      "num_envs",          "threads",    "autoreset",     "copy",
        "options", "max_episode_steps", "statistics", "check_actions", nullptr};
    PyObject *id, *num_envs, *autoreset, *options = Py_None, *limit = Py_None;
    int threads = 1, copy = 1, statistics = 1, check = 1;
    check_python(PyArg_ParseTupleAndKeywords(
        args, keywords, "OOiO|pOOpp", const_cast<char**>(names), &id, &num_envs, &threads,
        &autoreset, &copy, &options, &limit, &statistics, &check));
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
    std::shared_ptr<ThreadPool> pool;
    if (threads == 0) threads = core_count();
    if (threads > 1) pool = shared_pool(threads);
    settings.pool = pool.get();
    auto core = std::make_unique<Core>(pool, make_batch(text_of(id, "environment id"), settings),
                                       copy, statistics);
    auto* object = reinterpret_cast<PyVectorCore*>(self);
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

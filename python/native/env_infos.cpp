#include <cstring>

#include "python/native/env_vector.h"

namespace bessemer::python {
namespace {

void put(PyObject* dictionary, const char* key, const Owned& value) {
  check_python(PyDict_SetItemString(dictionary, key, value.get()) == 0);
}
Owned full_mask(int64_t rows) {
  Owned mask = vector_array(rows, NPY_BOOL, false);
  std::memset(data_of<uint8_t>(mask), 1, static_cast<size_t>(rows));
  return mask;
}

/// What only rows that ended or failed in this step have, as Gymnasium's wrappers lay it out.
void add_endings(VectorCore& core, const uint8_t* ended, int64_t rows, const int64_t* ids,
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

}  // namespace

VectorCore::VectorCore(std::shared_ptr<ThreadPool> threads, std::unique_ptr<EnvBatch> made,
                       bool fresh, bool stats)
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

void VectorCore::make_results(Results& results) {
  const npy_intp shape[] = {rows};
  writer.prepare(results.obs);
  results.reward = own(new_array(1, shape, NPY_FLOAT64));
  results.terminated = own(new_array(1, shape, NPY_BOOL));
  results.truncated = own(new_array(1, shape, NPY_BOOL));
}

void RowInfos::prepare(VectorCore& core, int64_t rows) {
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

void RowInfos::add(const VectorCore& core, int64_t rows, PyObject* infos) const {
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

void add_faults(VectorCore& core, int64_t rows, const int64_t* ids, PyObject* infos) {
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

PyObject* finish_step(VectorCore& core, const Results& results, int64_t rows, const int64_t* ids,
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

}  // namespace bessemer::python

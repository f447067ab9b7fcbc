// The state behind bessemer.VectorEnv, and how the results of its steps become Python values.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "envs/render/canvas.h"
#include "python/native/env_values.h"

namespace bessemer::python {

inline double clock_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Arrays of one step's results.
struct Results {
  ObservationWriter::Arrays obs;
  Owned reward, terminated, truncated;  // float64, bool, bool
};

/// A batch and what its steps write to.
struct VectorCore {
  std::shared_ptr<ThreadPool> pool;
  std::unique_ptr<EnvBatch> batch;
  int64_t rows;
  ActionReader actions;
  ObservationWriter writer;
  bool copy, statistics;
  StepBuffers out;
  Results kept;                         // copy=False: what every step returns
  ObservationWriter::Arrays final_obs;  // dense, same_step only
  std::vector<float> reward, episode_return;
  std::vector<int64_t> episode_length;
  std::vector<uint8_t> fault, ended;  // `ended`: the last step ended the row's episode
  std::vector<double> started;        // clock at the start of each row's episode
  std::vector<std::vector<float>> components;
  std::vector<int64_t> ids;
  bool busy = false;    // a thread steps the batch without the interpreter's lock
  bool remote = false;  // in another process: every call may wait
  int64_t choices = 0;  // of the action mask
  std::unique_ptr<Canvas> canvas;

  VectorCore(std::shared_ptr<ThreadPool> threads, std::unique_ptr<EnvBatch> made, bool fresh,
             bool stats);
  void make_results(Results& results);
};

inline Owned vector_array(int64_t rows, int type, bool zeroed) {
  npy_intp shape[] = {rows};
  return own(zeroed ? PyArray_ZEROS(1, shape, type, 0) : PyArray_SimpleNew(1, shape, type));
}
template <class T>
T* data_of(const Owned& array) {
  return static_cast<T*>(PyArray_DATA(as_array(array.get())));
}

/// Arrays for what every row has: action mask, reward components, info channels.
struct RowInfos {
  std::vector<Owned> channels;
  Owned mask;

  void prepare(VectorCore& core, int64_t rows);
  void add(const VectorCore& core, int64_t rows, PyObject* infos) const;
};

/// True where any of the flags is set; they are 0 or 1.
bool any_set(const uint8_t* flags, int64_t count);

/// The reasons of rows that failed, under infos["fault"]. `ids`: environments of the rows, null for
/// all.
void add_faults(VectorCore& core, int64_t rows, const int64_t* ids, PyObject* infos);

/// The 5-tuple of `rows` rows whose arrays `results` holds.
PyObject* finish_step(VectorCore& core, const Results& results, int64_t rows, const int64_t* ids,
                      const RowInfos& row_infos);

}  // namespace bessemer::python

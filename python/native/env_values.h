// What both environment types share: Specs as dictionaries, actions from Python objects,
// observations as NumPy arrays.
#pragma once

#include <string>
#include <vector>

#include "envs/env.h"
#include "python/native/numpy_api.h"

namespace bessemer::python {

/// The Spec as a dictionary, from which the package builds spaces.
PyObject* spec_dictionary(const Spec& spec);

/// {"name": value} or None to option texts; values are bool, int, float or str.
Options options_from(PyObject* mapping, const char* what);
/// A NumPy seed: an int >= 0 that fits 64 bits.
uint64_t seed_from(PyObject* object);

/// Reads actions of a fixed number of rows into the channel's dtype.
class ActionReader {
 public:
  /// rows < 0: one environment, whose action has no row dimension.
  ActionReader(const Channel& channel, int64_t rows);
  /// What Python passed, borrowed from it or converted; valid until the next call. TypeError for a
  /// wrong kind of element, ValueError for a wrong shape.
  Actions read(PyObject* action);
  /// The same for another number of rows (send).
  Actions read_rows(PyObject* action, int64_t rows);
  bool is_scalar_integer() const { return scalar_integer_; }
  Dtype dtype() const { return channel_->dtype; }

 private:
  const Channel* channel_;
  int64_t rows_;
  int type_ = 0;
  bool scalar_integer_ = false;  // one environment with a Discrete action
  int ndim_ = 0;
  npy_intp shape_[kMaxDims + 1] = {};
  Owned held_;
  int64_t one_ = 0;
  Ragged text_;
};

/// Observation channels as Python values: one array for a single channel, nested dictionaries for
/// dotted names, str for text.
class ObservationWriter {
 public:
  /// rows < 0: one environment.
  ObservationWriter(const std::vector<Channel>& channels, int64_t rows);

  /// One observation's arrays, before they are put together.
  struct Arrays {
    std::vector<Owned> arrays;  // null for ragged channels
    std::vector<Ragged> text;   // one a channel, used by ragged ones
    std::vector<void*> pointers;
    std::vector<Ragged*> ragged;
  };
  void prepare(Arrays& out) const;               // new arrays (uninitialised)
  PyObject* finish(const Arrays& arrays) const;  // new reference
  bool single_array() const { return single_array_; }
  /// A new array of the only channel; its elements' address in `data`.
  PyObject* new_only(void*& data) const {
    PyObject* array = new_array(ndim_, shape_, type_);
    if (array) data = PyArray_DATA(as_array(array));
    return array;
  }
  bool has_ragged() const { return has_ragged_; }
  /// Row i of the arrays as an observation of its own, copied.
  PyObject* row(const Arrays& arrays, int64_t i) const;

 private:
  PyObject* value(const Arrays& arrays, size_t channel) const;
  PyObject* combine(std::vector<Owned> values) const;
  const std::vector<Channel>* channels_;
  int64_t rows_;
  bool single_array_ = false, has_ragged_ = false;
  int ndim_ = 0, type_ = 0;  // of the only channel
  npy_intp shape_[kMaxDims + 1] = {};
};

}  // namespace bessemer::python

// What an environment says of itself: named channels with dtype, shape and bounds, options, limits.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/base/dtype.h"

namespace bessemer {

/// How the values of a channel are meant (Gymnasium's spaces).
enum class SpaceKind : uint8_t { box, discrete, multi_discrete, multi_binary, text };

/// One named leaf. Dict and Tuple spaces are names with dots.
struct Channel {
  std::string name;  // "obs", "action", "reward.shaping", "info.lap", ...
  SpaceKind kind = SpaceKind::box;
  Dtype dtype = Dtype::f32;
  std::vector<int64_t> shape;     // of one row; empty for a scalar
  std::vector<double> low, high;  // box: one value, or one an element
  std::vector<int64_t> n;         // discrete: {n}; multi_discrete: one an element
  int64_t start = 0;              // discrete: the smallest value
  bool ragged = false;            // text: i64 offsets + bytes; shape is empty
  int64_t max_length = 0;         // ragged: bytes at the most, 0 = unbounded

  int64_t numel() const {
    int64_t count = 1;
    for (int64_t d : shape) count *= d;
    return count;
  }
};

/// A key of `env.options` in a recipe, a keyword of `make` in Python.
struct Option {
  std::string name;
  enum class Type : uint8_t { boolean, integer, number, text } type = Type::number;
  std::string fallback;  // the default, as text
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  std::string doc;
};
/// Name and value as text, checked against the Spec's options by `make_batch`.
using Options = std::vector<std::pair<std::string, std::string>>;

struct Spec {
  std::string id;
  std::string doc;                   // one line
  std::vector<Channel> observation;  // at least one
  std::vector<Channel> action;       // exactly one today for the built-in simulators
  std::vector<Channel> rewards;      // named components beside the total, may be empty
  std::vector<Channel> infos;        // may be empty
  bool action_mask = false;          // u8 [sum of n] a row: 1 = allowed
  int rows = 1;                      // agents an environment
  int64_t max_episode_steps = 0;     // 0: no limit; truncation, never termination
  double reward_threshold = std::numeric_limits<double>::quiet_NaN();
  double render_fps = 50;
  int render_width = 600, render_height = 400;
  std::vector<Option> options;
  std::vector<Option> reset_options;  // "low", "high", ...
};

}  // namespace bessemer

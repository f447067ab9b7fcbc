// What the text tasks share: their channels, the split into training and held-out items, and small
// readers of replies. Each task is an environment like any other (docs/environments.md): a prompt
// comes as text, the reply goes back as text, named reward components say what was right.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "envs/batch.h"

namespace bessemer::text_task {

inline constexpr int64_t kLongest = 4096;  // bytes of a prompt or a reply

/// A Spec with one text observation "prompt", one text action "reply", the named reward components
/// and the option "split".
inline Spec spec(std::string id, std::string doc, std::vector<std::string> components,
                 std::vector<Option> options, int64_t turns = 0) {
  Spec s;
  s.id = std::move(id);
  s.doc = std::move(doc);
  const Channel text{
      .kind = SpaceKind::text, .dtype = Dtype::u8, .ragged = true, .max_length = kLongest};
  s.observation = {text};
  s.observation[0].name = "prompt";
  s.action = {text};
  s.action[0].name = "reply";
  for (std::string& name : components) {
    Channel c{.kind = SpaceKind::box, .dtype = Dtype::f32, .low = {0}, .high = {1}};
    c.name = "reward." + name;
    s.rewards.push_back(std::move(c));
  }
  s.max_episode_steps = turns;  // a single answer ends its episode by itself
  s.reward_threshold = 1;
  s.render_fps = 1;
  s.options = std::move(options);
  s.options.push_back({.name = "split",
                       .type = Option::Type::text,
                       .fallback = "train",
                       .doc = "train or test: items of one never appear in the other"});
  return s;
}

inline Option integer(std::string name, int64_t fallback, int64_t min, int64_t max,
                      std::string doc) {
  return {.name = std::move(name),
          .type = Option::Type::integer,
          .fallback = std::to_string(fallback),
          .min = static_cast<double>(min),
          .max = static_cast<double>(max),
          .doc = std::move(doc)};
}

/// Which items a split holds: one in eight is held out, by a hash of its text, so that the split
/// depends on neither seeds nor order.
class Split {
 public:
  Split(const Settings& options, std::string_view id) : test_(options.text("split") == "test") {
    BESSEMER_CHECK(test_ || options.text("split") == "train", ValueError, "[env] ", id,
                   ": split is train or test, not '", options.text("split"), "'");
  }
  bool holds(std::string_view item) const {
    uint64_t h = 0xcbf29ce484222325ull;  // FNV-1a, finished by a multiply-shift
    for (const char c : item) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
    return ((h * 0x9E3779B97F4A7C15ull) >> 61 == 0) == test_;
  }
  /// Draws items until one belongs to the split.
  template <class Draw>
  void draw(Draw&& item) const {
    for (int tries = 0; tries < 100000; ++tries)
      if (holds(item())) return;
    fail<ValueError>("[env] these options leave no item in this split");
  }

 private:
  bool test_;
};

/// Without the white space around it.
inline std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

/// A whole number and nothing else around it but space.
inline std::optional<int64_t> whole_number(std::string_view text) {
  text = trimmed(text);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

inline std::string random_word(Pcg64& rng, int64_t shortest, int64_t longest,
                               std::string_view letters) {
  std::string word(static_cast<size_t>(rng.integers(shortest, longest + 1)), ' ');
  for (char& c : word)
    c = letters[static_cast<size_t>(rng.integers(0, static_cast<int64_t>(letters.size())))];
  return word;
}
inline constexpr std::string_view kLowercase = "abcdefghijklmnopqrstuvwxyz";

inline void check_order(std::string_view id, int64_t low, int64_t high, const char* what) {
  BESSEMER_CHECK(low <= high, ValueError, "[env] ", id, ": min_", what, " ", low, " is above max_",
                 what, " ", high);
}

}  // namespace bessemer::text_task

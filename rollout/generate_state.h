// What the generator keeps of a prompt and of each of its completions. Internal to
// rollout/generate.
#pragma once

#include "core/text/utf8.h"
#include "rollout/generate.h"

namespace bessemer {

struct Generator::Sequence {
  enum class State : uint8_t {
    waiting,  // for its prompt, a place in the batch or pages
    active,   // its cached tokens grow with every step
    parked,   // finished, kept to be extended
    done,
  };
  Group* group = nullptr;
  int64_t handle = 0;
  uint64_t draw = 0;  // index of the next draw
  std::shared_ptr<const SamplingOptions> sampling;
  bool keep = false;
  State state = State::waiting;
  bool scheduled = false;     // its rows are part of the step being put together
  std::vector<int32_t> tail;  // all tokens after the prompt
  CachedTokens cached;
  Completion out;
  Utf8Decoder utf8;

  bool unfinished() const { return state == State::waiting || state == State::active; }
  bool needs_prompt() const { return state == State::waiting && cached.length() == 0; }
  int64_t length() const;  // prompt and tail
  int32_t token(int64_t i) const;
};

/// A prompt. It is computed when a completion needs it; completions share its pages, and the last
/// one that needs it takes them over.
struct Generator::Group {
  int64_t handle = 0;  // of its first sequence
  std::vector<int32_t> prompt;
  CachedTokens cached;
  Tensor last_hidden;  // [1, hidden] of the last prompt token, once the prompt is computed
  bool scheduled = false;
  std::vector<Sequence> sequences;

  int64_t waiting() const {  // completions that cannot start without the prompt
    int64_t count = 0;
    for (const Sequence& s : sequences) count += s.needs_prompt();
    return count;
  }
  bool active() const {
    for (const Sequence& s : sequences)
      if (s.state == Sequence::State::active) return true;
    return false;
  }
  bool done() const {
    for (const Sequence& s : sequences)
      if (s.state != Sequence::State::done) return false;
    return true;
  }
  void drop(KvCache& cache) {
    cached.clear(cache);
    last_hidden = Tensor();
  }
};

inline int64_t Generator::Sequence::length() const {
  return static_cast<int64_t>(group->prompt.size() + tail.size());
}
inline int32_t Generator::Sequence::token(int64_t i) const {
  const auto at = static_cast<size_t>(i), prompt = group->prompt.size();
  return at < prompt ? group->prompt[at] : tail[at - prompt];
}

/// One step: rows of the forward pass, and who samples from what.
struct Generator::Rows {
  struct Unit {
    Group* group;
    Sequence* sequence;  // null: the group's prompt
    int64_t begin, count;

    CachedTokens& cached() const { return sequence ? sequence->cached : group->cached; }
    int32_t token(int64_t i) const {
      return sequence ? sequence->token(i) : group->prompt[static_cast<size_t>(i)];
    }
    int64_t length() const {
      return sequence ? sequence->length() : static_cast<int64_t>(group->prompt.size());
    }
  };
  struct Draw {
    Sequence* sequence;
    int64_t row;  // of the forward pass; -1: the group's last_hidden
  };
  std::vector<Unit> units;
  int64_t count = 0;   // of the units' rows
  int64_t joined = 0;  // sequences that became active
  std::vector<Draw> draws;
  Tensor hidden;  // [count, hidden]
};

}  // namespace bessemer

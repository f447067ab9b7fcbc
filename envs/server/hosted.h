// One session's environments: what its requests do to them, and those that wait for their turn.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/wire/message.h"
#include "envs/env.h"
#include "envs/wire/step_arrays.h"

namespace bessemer {

/// The environment's options (text, numbers and booleans) of a header's map. Throws WireError.
Options options_of(const wire::Map& fields, std::string_view key);

class Hosted {
 public:
  Hosted(std::string id, int64_t envs, bool python)
      : id(std::move(id)), envs(envs), python(python) {
    cost_.fill(-1);
  }

  /// From here on requests can be answered.
  void use(std::unique_ptr<EnvBatch> made);
  const EnvBatch& batch() const { return *batch_; }

  /// Carries out one request; the reply's arrays are valid until the next. Throws WireError and
  /// what the environment throws.
  wire::Message answer(const wire::Message& message);
  /// True where such a request took so little that handing it to another thread would cost more.
  bool quick(const wire::Message& message) const;

  const std::string id;  // as it is served
  const int64_t envs;
  const bool python;                   // in processes: always slow, nothing of it is saved
  std::atomic<bool> cancelled{false};  // nobody waits for it any more

  // What follows belongs to the thread that polls.
  std::string client;                 // as it named itself
  bool closed = false;                // its session has ended
  bool running = false;               // another thread carries out a request
  std::deque<wire::Message> waiting;  // those after it
  double spent = 0;                   // seconds, of all requests
  uint64_t steps = 0;
  double last_seconds = 0;  // of the last request

 private:
  enum Kind : uint8_t { step, reset, observe, snapshot, restore, fork, render, kKinds };
  static Kind kind_of(const wire::Message& message);
  int64_t agents() const { return batch_->spec().rows; }
  std::span<const int64_t> ids(const wire::Message& message) const;
  std::vector<int64_t> chosen_or_all(const wire::Message& message) const;
  void load_all(const std::vector<int64_t>& ids,
                const std::function<std::string_view(size_t)>& state);
  wire::Message carry_out(Kind kind, const wire::Message& message);
  wire::Message do_reset(const wire::Message& message);
  wire::Message do_step(const wire::Message& message);
  wire::Message do_observe();
  wire::Message do_snapshot(const wire::Message& message);
  wire::Message do_restore(const wire::Message& message);
  wire::Message do_fork(const wire::Message& message);
  wire::Message do_render(const wire::Message& message);

  std::unique_ptr<EnvBatch> batch_;
  std::unique_ptr<StepArrays> arrays_;
  std::array<double, kKinds> cost_;  // seconds, measured; below 0: not yet
  // What the last reply refers to.
  Ragged text_;
  std::vector<uint8_t> pixels_;
};

}  // namespace bessemer

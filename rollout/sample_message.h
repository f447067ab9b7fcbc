// Experience as messages: control rows (rollouts of flat columns) and the states of environments.
// Token rows are in rollout/episode_message.h. docs/protocol.md section 8 has the format.
#pragma once

#include <optional>
#include <vector>

#include "core/wire/message.h"
#include "rollout/source.h"

namespace bessemer {

/// Adds a rollout, all with weights of one version, and its finished episodes. They must outlive
/// the sending.
struct RolloutMessage {
  const Rollout& rollout;
  std::vector<double> totals;
  std::vector<int64_t> lengths;
  RolloutMessage(const Rollout& rollout_, const std::vector<EpisodeEnd>& episodes);
  void write(wire::Message& message) const;
};

/// Checks a message against the shape that is expected; throws WireError (bad_type, malformed).
void check_rollout_message(const wire::Message& message, const RolloutShape& shape);
/// Copies a checked message into the rows from `first_row` on of a larger rollout. Faults are added
/// to its count, its reason is left alone.
void read_rollout_rows(const wire::Message& message, const RolloutShape& shape, int64_t first_row,
                       Rollout& into);
/// A checked message as a rollout of its own; its columns are the message's memory.
Rollout read_rollout(const wire::Message& message, const RolloutShape& shape);
std::vector<EpisodeEnd> read_episodes(const wire::Message& message);

/// Samples of one task, as the hub hands them on.
struct WorkerSamples {
  std::string worker;
  int64_t index = 0;    // of the worker
  uint64_t number = 0;  // of the task, counted from 0 for each worker
  int64_t version = 0;  // of the weights
  int64_t first_row = 0;
  RolloutShape shape;
  wire::Message message;  // checked
};

/// Adds a state; it must outlive the sending.
struct StateMessage {
  const SourceState& state;
  std::vector<int64_t> offsets{0};
  std::vector<char> bytes;
  explicit StateMessage(const SourceState& state_);
  void write(wire::Message& message) const;
};
/// Nothing where the message has no state; throws WireError where it is not one of `rows` rows.
std::optional<SourceState> read_state(const wire::Message& message, int64_t rows);

}  // namespace bessemer

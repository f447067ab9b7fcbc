#include "rollout/worker.h"

#include "rollout/sample_message.h"

namespace bessemer {

using wire::Map;
using wire::Message;

namespace {

class Collector final : public TaskWorker {
 public:
  Collector(WorkerParts parts, int64_t rows) : parts_(std::move(parts)), rows_(rows) {}

  void begin(const Map& welcome, Message& pull) override {
    if (welcome.flag("begin", false)) write_state(pull);
  }

  void assign(const WeightSet& set) override {
    const nn::NamedTensors policy = parts_.policy->named_parameters();
    assign_weights(policy, set);
    assign_normalizer(*parts_.normalizer, set);
  }

  void perform(const Message& task, Message& report) override {
    if (const auto state = read_state(task, rows_)) parts_.sampler->restore(*state);
    episodes_.clear();
    parts_.sampler->collect(task.fields.integer("version"), episodes_);
    rollout_message_.emplace(parts_.sampler->rollout(), episodes_);
    rollout_message_->write(report);
    write_state(report);
  }

 private:
  void write_state(Message& message) {
    state_ = parts_.sampler->state();
    state_message_.emplace(state_);
    state_message_->write(message);
  }

  WorkerParts parts_;
  int64_t rows_;
  std::vector<EpisodeEnd> episodes_;
  // What the report on its way borrows.
  SourceState state_;
  std::optional<RolloutMessage> rollout_message_;
  std::optional<StateMessage> state_message_;
};

}  // namespace

TaskWorkerFactory collecting(const WorkerFactory& factory) {
  return [factory](const Map& welcome) {
    const int64_t rows = welcome.integer("rows");
    return std::make_unique<Collector>(
        factory(welcome.text("setup"), welcome.integer("first_row"), rows), rows);
  };
}

}  // namespace bessemer

#include "rollout/episode_worker.h"

#include "core/base/trace.h"
#include "rollout/episode_message.h"

namespace bessemer {

namespace {

class Player final : public TaskWorker {
 public:
  explicit Player(EpisodeWorkerParts parts)
      : parts_(std::move(parts)),
        envs_(parts_.make_envs, parts_.pool.get()),
        generator_(*parts_.decoder, parts_.generator) {}

  void assign(const WeightSet& set) override {
    assign_weights(parts_.decoder->named_parameters(), set);
  }

  void perform(const wire::Message& task, wire::Message& report) override {
    const trace::Span span("play");
    // The version may have moved on while the weights stayed as they were.
    generator_.set_version(static_cast<uint64_t>(task.fields.integer("version")),
                           task.fields.count("weights_hash"));
    samples_ = token_samples(play_episodes(envs_, generator_, *parts_.tokenizer, read_play(task)));
    write_tokens(report, samples_);
  }

 private:
  EpisodeWorkerParts parts_;
  EpisodeEnvs envs_;
  Generator generator_;
  TokenSamples samples_;  // what the report on its way borrows
};

}  // namespace

std::unique_ptr<TaskWorker> episode_worker(EpisodeWorkerParts parts) {
  return std::make_unique<Player>(std::move(parts));
}

}  // namespace bessemer

// The hub of conversations (rollout/task_hub.h). A round is divided into jobs, contiguous ranges of
// its groups; workers take the oldest job that nobody has, and a job whose worker was lost is the
// next to be given out. Draws are named, so nothing depends on who plays what.
#pragma once

#include <deque>

#include "autograd/nn/decoder.h"
#include "rollout/episode_source.h"
#include "rollout/task_hub.h"

namespace bessemer {

class EpisodeHub final : public TaskHub, public EpisodeSource {
 public:
  /// The decoder must outlive the last publish(); `setup` is what workers build theirs and its
  /// tokenizer from. ValueError for no workers.
  EpisodeHub(TaskHubOptions options, wire::Map setup, const nn::Decoder& decoder);
  ~EpisodeHub() override { close(); }

  // As a source, on one thread.
  void publish(int64_t version) override;
  void submit(const PlayOptions& play) override;
  std::vector<Episode> take() override;
  std::vector<std::vector<Episode>> ahead() override;
  void restore(std::vector<std::vector<Episode>> rounds) override;

 private:
  struct Job {
    uint64_t number = 0;
    PlayOptions play;
    std::optional<size_t> worker;  // that plays it, or played it
    bool done = false;
    std::vector<Episode> episodes;
  };
  struct Round {
    std::shared_ptr<const WeightSet> weights;
    std::vector<Job> jobs;
    bool done() const;
    std::vector<Episode> episodes() const;
  };

  std::optional<Task> next_task(size_t worker) override;
  uint64_t receive(size_t worker, wire::Message& samples) override;
  void left(size_t worker) override;
  /// The job that a worker is at; null: none.
  Job* job_of(size_t worker);

  const nn::Decoder& decoder_;
  std::shared_ptr<const WeightSet> weights_;
  std::deque<Round> rounds_;  // submitted, not taken
  uint64_t jobs_ = 0;         // made so far
};

}  // namespace bessemer

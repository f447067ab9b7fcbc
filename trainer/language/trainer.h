// What every algorithm for language models shares: the model and its optimiser, evaluation by
// greedy answers, checkpoints that transformers can load, completions for people.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/nn/optim.h"
#include "core/io/safetensors.h"
#include "rollout/episodes.h"
#include "trainer/algorithm.h"
#include "trainer/good_state.h"
#include "trainer/language/dataset.h"
#include "trainer/language/model.h"

namespace bessemer {

class LanguageTrainer : public Algorithm {
 public:
  /// `make_envs` stands in for the registry. ValueError for environments that do not speak.
  LanguageTrainer(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs, bool head);

  const Spec& spec() const override { return spec_; }
  int64_t steps() const override { return steps_; }
  int64_t updates() const override { return adam_->steps(); }
  int64_t parameters() const override;
  int64_t memory_bytes() const override;
  /// Where a number is not finite the weights, moments and counters are the last good ones: those
  /// that an iteration began with whose loss and gradient were finite, at most 8 steps ago or of
  /// the iteration before; after any other error those that this one began with. So the state can
  /// be saved, and goes on with the bits of a run that had no error.
  void iterate(Metrics& metrics) final;
  EvalResult evaluate(int64_t episodes, int64_t seed, bool deterministic) final;
  void save(const std::filesystem::path& folder) const override;
  void load(const std::filesystem::path& folder) override;
  void load_policy(const std::filesystem::path& folder) override;
  std::unique_ptr<Actor> actor(bool deterministic, int64_t seed) const override;
  std::vector<CompletionRecord> take_completions() override;
  /// The next texts that would be learned from, at most `count`, for people; answers are sampled
  /// where the algorithm samples them. What has been learned stays as it is.
  virtual std::vector<Text> preview(int64_t count) = 0;

  const LanguageModel& model() const { return model_; }

 protected:
  /// One iteration: every step of the optimiser goes through optimise().
  virtual void learn(Metrics& metrics) = 0;
  /// Greedy answers in the environment (drawn ones unless `deterministic`).
  virtual EvalResult judge(int64_t episodes, int64_t seed, bool deterministic);

  /// How far the named draws are; a checkpoint keeps them.
  struct Counters {
    int64_t items = 0;        // of the data, the environment's items included
    int64_t completions = 0;  // sampled, each with draws of its own
    int64_t shuffles = 0;     // orders of minibatches
    int64_t tokens = 0;       // learned from, prompts included
  };

  bool has_envs() const { return !config_.env.id.empty(); }
  /// Environments of the task's `split`.
  EpisodeEnvs& task(const std::string& split);
  /// Seed of the item number `index` of the run.
  uint64_t item_seed(int64_t index) const;
  Generator& generator();
  SamplingOptions sampling() const;
  /// rollout.size answers to each of the next `groups` items of the training split; `counters` move
  /// on by them.
  PlayOptions next_play(int64_t groups, Counters& counters) const;
  std::vector<Episode> play(const PlayOptions& options, Generator& generator);
  PackOptions packing(bool whole = false, bool divide = true) const;

  double learning_rate() const;
  /// Counts what a step or an iteration learns from into "num_tokens", the tokens so far; as TRL
  /// does, a prompt counts with each of its answers.
  void count_tokens(std::span<const Text> texts, Metrics& metrics);
  /// Appends what `measured` holds to the means of an evaluation, as "eval/NAME".
  static void add_means(const Metrics& measured, EvalResult& result);
  /// Before anything is trained: a run without an environment is judged by what is held out of its
  /// file. ValueError where that is nothing.
  void check_held_out(const Dataset& data) const;

  /// NotFiniteError that says which values are not finite.
  static void check_finite(std::span<const float> values, std::string_view name);
  /// One step of the optimiser with the gradients that lie on the parameters. NotFiniteError before
  /// anything is written, where the loss or a gradient is not finite.
  void optimise(double loss, Metrics& metrics);
  CompletionRecord record(const Episode& episode, const char* kind, int64_t group) const;

  RunConfig config_;
  ThreadPool& pool_;
  EnvFactory make_envs_;
  std::map<std::string, EpisodeEnvs> tasks_;
  Spec spec_;
  LanguageModel model_;
  nn::NamedTensors named_;
  std::unique_ptr<nn::Adam> adam_;
  std::unique_ptr<Generator> generator_;
  std::vector<CompletionRecord> completions_;
  Counters counters_;
  int64_t steps_ = 0;

 private:
  struct Place {
    Counters counters;
    int64_t steps = 0;
  };
  void return_to(const Place& place);
  // What was sampled and not learned from.
  /// The counters without it.
  virtual Counters learned() const { return counters_; }
  virtual void drop_ahead() {}
  /// Adds it; returns the counters that go with it.
  virtual Counters save_ahead(nn::NamedTensors& /*train*/) const { return counters_; }
  virtual void load_ahead(const TensorFile& /*train*/) {}
  void save_state(const std::filesystem::path& folder, const Counters& counters) const;
  void load_state(const std::filesystem::path& folder);

  Place begin_;       // where the iteration began
  Place good_place_;  // where the iteration that proved `good_` began
  GoodState good_;
};

}  // namespace bessemer

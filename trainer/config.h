// Everything a run can be told, as structs whose fields() list each key once. forge reads a recipe
// into a RunConfig through these lists; nothing here parses YAML. docs/recipes.md explains every
// key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/config.h"
#include "trainer/language/config.h"

namespace bessemer {

struct EnvConfig {
  std::string id;
  int64_t num = 8;
  std::vector<std::pair<std::string, std::string>> options;
  std::optional<int64_t> max_episode_steps;
  bool normalize_obs = false, normalize_reward = false;  // details 28, 30
  double clip_obs = 10, clip_reward = 10;                // details 29, 31
  bool clip_actions = true;                              // detail 27
  bool scale_pixels = true;                              // detail 22
  std::optional<std::string> address;                    // of a server; none: in this process
  std::optional<std::string> keys, token;                // files: what that server asks for
  void fields(FieldVisitor& v);
};

struct ModelConfig {
  std::string kind = "mlp";  // mlp | cnn | gru | decoder
  std::vector<int64_t> hidden = {64, 64};
  std::string activation = "tanh";  // tanh | relu | silu | gelu
  bool separate = true;             // detail 13: separate trunks for policy and value
  bool orthogonal = true;           // detail 2
  double policy_gain = 0.01, value_gain = 1;
  double log_std_init = 0;  // detail 24
  bool sde = false;         // state-dependent exploration
  int64_t sde_sample_freq = -1;
  int64_t recurrent_size = 64;
  DecoderKeys decoder;
  void fields(FieldVisitor& v);
};

struct RolloutConfig {
  int64_t steps = 128;
  GenerationKeys language;
  void fields(FieldVisitor& v);
};

struct TrainerConfig {
  std::string algo = "ppo";
  int64_t total_steps = 100'000;
  double lr = 3e-4;
  std::string lr_schedule = "constant";  // constant | linear (detail 4)
  double adam_eps = 1e-5;                // detail 3
  double adam_beta1 = 0.9, adam_beta2 = 0.999;
  double weight_decay = 0;
  double gamma = 0.99, gae_lambda = 0.95;  // detail 5
  int64_t epochs = 4, batch_size = 256;    // detail 6
  bool shuffle = true;
  double clip_range = 0.2;  // detail 8
  std::string clip_schedule = "constant";
  std::optional<double> clip_range_vf;  // detail 9
  bool normalize_advantage = true;      // detail 7
  double ent_coef = 0, vf_coef = 0.5;   // detail 10
  double max_grad_norm = 0.5;           // detail 11
  std::optional<double> target_kl;
  std::string surrogate = "clip";       // appo: clip | decoupled | none
  double vtrace_rho = 1, vtrace_c = 1;  // appo
  double kl_penalty = 0;                // appo
  bool truncation_bootstrap = true;
  std::vector<std::pair<std::string, double>> stop;  // e.g. eval/mean_reward: 475
  PostTraining language;
  void fields(FieldVisitor& v);
};

struct EvalConfig {
  int64_t every = 0;  // environment steps; 0 = only at the end
  int64_t episodes = 20;
  int64_t seed = 9;
  bool deterministic = true;
  std::optional<double> bar;         // a mean return that counts as success
  std::string split = "test";        // of a text task's items
  std::optional<std::string> sweep;  // a reset option and how far: "secret=64"
  /// The two parts of `sweep`; 0 where there is none.
  std::pair<std::string, int64_t> swept() const;
  void fields(FieldVisitor& v);
};

struct PlacementConfig {
  std::string mode = "inline";  // inline | processes
  int64_t threads = 0;          // 0 = all cores
  int64_t workers = 0;          // 0 = one a core
  int64_t max_staleness = 0;    // appo: policy versions; language: iterations
  bool lag_decides = false;     // no key: what is learned depends on max_staleness
  bool server = false;          // environments in a server of the run's own
  int64_t restarts = 3;
  double lease = 5;  // seconds
  void fields(FieldVisitor& v);
};

struct CheckpointConfig {
  int64_t every = 0;  // environment steps; 0 = only at the end
  int64_t keep = 3;
  void fields(FieldVisitor& v);
};

struct RunConfig {
  int64_t seed = 1;
  EnvConfig env;
  ModelConfig model;
  InitConfig init;
  DataConfig data;
  RewardConfig reward;
  RolloutConfig rollout;
  TrainerConfig trainer;
  EvalConfig eval;
  PlacementConfig placement;
  CheckpointConfig checkpoint;
  bool act_only = false;  // no key: language models are made to answer, not to learn
  /// `seed` and every section above, in this order.
  void fields(FieldVisitor& v);
  /// Rules between keys that need no environment (a minibatch larger than the rollout, ...);
  /// ValueError names the keys.
  void check() const;
  /// Worker processes of placement.mode: processes.
  int64_t worker_count() const;
  /// Threads that step environments in each of them.
  int64_t worker_threads() const;
  /// 16 hexadecimal digits of every key that a resumed run may not change (FNV-1a).
  std::string hash() const;
  /// What one call of Algorithm::iterate adds to its steps.
  int64_t steps_per_iteration() const;
  /// The bit (Uses) of the algorithm that model.kind and trainer.algo name.
  uint32_t uses() const;
  /// Defaults of language models in place of those of control, where `kind` and `algo` ask for
  /// them; called before a recipe is read.
  void start_from(std::string_view kind, std::string_view algo);

 private:
  void check_language() const;
};

}  // namespace bessemer

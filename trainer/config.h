// Everything a run can be told, as structs whose fields() list each key once. forge reads a recipe into
// a RunConfig through these lists; nothing here parses YAML.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/config.h"

namespace bessemer {

struct EnvConfig {
  std::string id;
  int64_t num = 8;
  std::vector<std::pair<std::string, std::string>> options;
  bool normalize_obs = false, normalize_reward = false;
  double clip_obs = 10, clip_reward = 10;
  void fields(FieldVisitor& v);
};

struct ModelConfig {
  std::string kind = "mlp";               // mlp | cnn | gru
  std::vector<int64_t> hidden = {64, 64};
  std::string activation = "tanh";        // tanh | relu | silu | gelu
  bool separate = true;                   // detail 13: separate trunks for policy and value
  bool orthogonal = true;                 // detail 2
  double log_std_init = 0;
  bool sde = false;                       // state-dependent exploration
  int64_t sde_sample_freq = -1;
  void fields(FieldVisitor& v);
};

struct RolloutConfig {
  int64_t steps = 128;
  void fields(FieldVisitor& v);
};

struct TrainerConfig {
  std::string algo = "ppo";
  int64_t total_steps = 100'000;
  double lr = 3e-4;
  std::string lr_schedule = "constant";   // constant | linear
  double adam_eps = 1e-5;
  double gamma = 0.99, gae_lambda = 0.95;
  int64_t epochs = 4, batch_size = 256;
  double clip_range = 0.2;
  std::string clip_schedule = "constant";
  std::optional<double> clip_range_vf;
  bool normalize_advantage = true;
  double ent_coef = 0, vf_coef = 0.5;
  double max_grad_norm = 0.5;
  std::optional<double> target_kl;
  bool truncation_bootstrap = true;
  std::vector<std::pair<std::string, double>> stop;  // e.g. eval/mean_reward: 475
  void fields(FieldVisitor& v);
};

struct EvalConfig {
  int64_t every = 0;       // environment steps; 0 = only at the end
  int64_t episodes = 20;
  int64_t seed = 9;
  bool deterministic = true;
  void fields(FieldVisitor& v);
};

struct PlacementConfig {
  std::string mode = "inline";
  int64_t threads = 0;     // 0 = all cores
  void fields(FieldVisitor& v);
};

struct CheckpointConfig {
  int64_t every = 0;       // environment steps; 0 = only at the end
  int64_t keep = 3;
  void fields(FieldVisitor& v);
};

struct RunConfig {
  int64_t seed = 1;
  EnvConfig env;
  ModelConfig model;
  RolloutConfig rollout;
  TrainerConfig trainer;
  EvalConfig eval;
  PlacementConfig placement;
  CheckpointConfig checkpoint;
};

}  // namespace bessemer

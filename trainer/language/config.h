// The part of a run's configuration that language models have: the decoder's shape, where its
// weights, its texts and its rewards come from, how it speaks and how it is post-trained.
// docs/post_training.md gives formula and source of every switch.
#pragma once

#include <optional>
#include <string>

#include "core/base/config.h"

namespace bessemer {

/// Which algorithms have a key (FieldVisitor::used_by).
enum Uses : uint32_t {
  kUsesControl = 1,  // every algorithm that acts in environments of numbers
  kUsesSft = 2,
  kUsesReward = 4,
  kUsesDpo = 8,
  kUsesGrpo = 16,
  kUsesPpo = 32,   // PPO of a decoder
  kUsesAppo = 64,  // beside kUsesControl
  kUsesPairs = kUsesReward | kUsesDpo,
  kUsesOnline = kUsesGrpo | kUsesPpo,
  kUsesLanguage = kUsesSft | kUsesPairs | kUsesOnline,
};
/// "control", "language", "sft, dpo" or "" for all.
std::string uses_text(uint32_t users);

/// Sizes of a decoder, names as in Hugging Face's config.json. Nothing given: those of the weights
/// that the run starts from, else the defaults of decoder_shape().
struct DecoderKeys {
  std::optional<std::string> path;  // a folder with config.json, weights and tokenizer.json
  std::optional<int64_t> hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
      intermediate_size, max_position_embeddings;
  std::string vocabulary = "bytes";  // or the size of a byte-level BPE learned from the texts
  std::optional<double> rope_theta;
  bool tie_word_embeddings = true;
  std::string dtype = "f32";  // of the computation; weights stay f32
  bool checkpoint = false;    // layers are computed again on the way back
  void fields(FieldVisitor& v);
};

/// Weights to start from: a run, one of its checkpoints, a folder of transformers; or the run of
/// another recipe.
struct InitConfig {
  std::optional<std::string> from, recipe;
  std::string folder;  // what the two came to; no key
  bool given() const { return from || recipe; }
  void fields(FieldVisitor& v);
};

struct DataConfig {
  Source from{.path = "env"};     // FILE.jsonl | env | {recipe: FILE}
  double holdout = 0.05;          // share of a file's examples that only evaluations see
  std::string chosen = "sample";  // pairs from env: who answers best
  std::string file;               // what `from` came to; no key
  void fields(FieldVisitor& v);
};

struct RewardConfig {
  std::string from = "env";  // env | model | py:FILE.py:FUNCTION
  Source model;
  double deadline = 5;  // seconds, of a Python function
  std::string folder;   // what `model` came to; no key
  void fields(FieldVisitor& v);
};

struct GenerationKeys {
  int64_t groups = 8, size = 8;
  int64_t max_tokens = 64;
  double temperature = 1;
  int64_t top_k = 0;
  double top_p = 1;
  void fields(FieldVisitor& v);
};

/// Switches of post-training.
struct PostTraining {
  int64_t micro_tokens = 4096;
  int64_t warmup_steps = 0;
  bool completion_only = true;
  std::string loss = "sigmoid";
  double beta = 0.1, label_smoothing = 0;
  bool reference_free = false, length_normalize = false;
  double center = 0, sft_coef = 0;
  std::string advantage = "group", credit = "episode", aggregation = "token_mean";
  std::optional<double> clip_range_high, dual_clip;
  double kl_coef = 0;
  std::string kl = "k3", kl_in = "loss";
  int64_t dynamic_sampling = 0;
  int64_t overlong_buffer = 0;
  double overlong_factor = 1;
  bool overlong_filter = false;
  double missing_eos_penalty = 0;
  void fields(FieldVisitor& v);
};

}  // namespace bessemer

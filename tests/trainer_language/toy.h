// A text task that even a model of random weights gets partly right, and a run small enough to
// learn it in a second.
#pragma once

#include <cstring>
#include <limits>
#include <memory>
#include <string>

#include "envs/batch.h"
#include "trainer/config.h"
#include "trainer/evaluate.h"
#include "trainer/language/trainer.h"

namespace bessemer {

/// Asks once (or `turns` times); the reward of a reply is its share of bytes below 128, an empty
/// one gets nothing. With `raw` its questions are no UTF-8; with `odd` every second item's reward
/// is no number; with `strict` that of a reply with other bytes is none, and 1 otherwise.
struct LowBytes {
  using Action = std::string_view;

  static Spec spec() {
    Spec s;
    s.id = "TestLowBytes-v0";
    const Channel text{
        .kind = SpaceKind::text, .dtype = Dtype::u8, .ragged = true, .max_length = 64};
    s.observation = {text};
    s.observation[0].name = "prompt";
    s.action = {text};
    s.action[0].name = "reply";
    Channel low{.kind = SpaceKind::box, .dtype = Dtype::f32, .low = {0}, .high = {1}};
    low.name = "reward.low";
    s.rewards = {low};
    s.options = {
        {.name = "turns",
         .type = Option::Type::integer,
         .fallback = "1",
         .min = 1,
         .doc = "replies of an episode"},
        {.name = "raw", .type = Option::Type::boolean, .fallback = "false", .doc = "bytes"},
        {.name = "odd", .type = Option::Type::boolean, .fallback = "false", .doc = "NaN"},
        {.name = "strict", .type = Option::Type::boolean, .fallback = "false", .doc = "1 or NaN"}};
    return s;
  }
  explicit LowBytes(const Settings& o)
      : turns_(o.integer("turns")),
        raw_(o.boolean("raw")),
        odd_(o.boolean("odd")),
        strict_(o.boolean("strict")) {}

  void reset(Pcg64& rng, const Settings&) {
    item_ = rng.integers(0, 10);
    turn_ = 0;
    low_ = 0;
  }
  StepResult step(std::string_view reply, Pcg64&) {
    double low = 0;
    for (const char c : reply) low += static_cast<uint8_t>(c) < 128;
    low_ = reply.empty() ? 0.0f : static_cast<float>(low / static_cast<double>(reply.size()));
    if (strict_) low_ = low_ == 1 ? 1.0f : std::numeric_limits<float>::quiet_NaN();
    if (odd_ && item_ % 2 == 1) low_ = std::numeric_limits<float>::quiet_NaN();
    return {.reward = low_, .terminated = ++turn_ == turns_};
  }
  void observe(RowOut& out) const { out.text(0, cat("q", item_, raw_ ? "\xff\xc3" : "")); }
  void rewards(std::span<float> out) const { out[0] = low_; }
  std::string oracle() const { return cat("a", item_); }
  void state(StateIo& io) { io(item_, turn_, low_); }

 private:
  int64_t turns_, item_ = 0, turn_ = 0;
  bool raw_, odd_, strict_;
  float low_ = 0;
};

inline EnvFactory low_bytes(int64_t turns = 1, const char* flag = nullptr) {
  return [turns, flag](const BatchOptions& wanted) -> std::unique_ptr<EnvBatch> {
    BatchOptions options = wanted;
    options.options = {{"turns", std::to_string(turns)}};
    if (flag) options.options.emplace_back(flag, "true");
    static const Spec spec = LowBytes::spec();
    return std::make_unique<Batch<LowBytes>>(spec, options);
  };
}

inline RunConfig toy_config(const std::string& algo, const std::string& kind = "decoder") {
  RunConfig config;
  config.start_from(kind, algo);
  config.seed = 3;
  config.env.id = "TestLowBytes-v0";
  DecoderKeys& model = config.model.decoder;
  model.hidden_size = 32;
  model.num_hidden_layers = 2;
  model.num_attention_heads = 2;
  model.max_position_embeddings = 96;
  config.rollout.language.groups = 4;
  config.rollout.language.size = 4;
  config.rollout.language.max_tokens = 6;
  config.trainer.batch_size = 16;
  config.trainer.lr = 5e-3;
  config.trainer.total_steps = 1000;
  config.trainer.language.micro_tokens = 256;
  config.eval.episodes = 8;
  config.check();
  return config;
}

/// All weights as bytes.
inline std::string weights_of(const LanguageTrainer& trainer) {
  std::string out;
  for (auto& [name, tensor] : trainer.model().named())
    out.append(static_cast<const char*>(tensor.raw()),
               static_cast<size_t>(tensor.numel()) * dtype_size(tensor.dtype()));
  return out;
}

}  // namespace bessemer

#include "trainer/config.h"

#include <algorithm>
#include <charconv>
#include <thread>

#include "core/base/error.h"

namespace bessemer {

void EnvConfig::fields(FieldVisitor& v) {
  v.field("id", id,
          {.doc = "environment, as `bessemer env list` names it, or a Gymnasium class as "
                  "py:file.py:Class",
           .path = true});
  v.used_by(kUsesControl);
  v.field("num", num, {.doc = "instances stepped together", .min = 1, .max = 1 << 20});
  v.used_by(kUsedByAll);
  v.field("options", options,
          {.doc = "options of the environment, as `bessemer env info ID` lists them"});
  v.field("max_episode_steps", max_episode_steps,
          {.doc = "time limit in steps instead of the environment's own; 0 removes it", .min = 0});
  v.used_by(kUsesControl);
  v.field(
      "normalize_obs", normalize_obs,
      {.doc = "observations minus their running mean, over their running deviation (detail 28)"});
  v.field("normalize_reward", normalize_reward,
          {.doc = "rewards over the running deviation of the discounted return (detail 30)"});
  v.field(
      "clip_obs", clip_obs,
      {.doc = "bound of a normalised observation (detail 29)", .min = 0, .exclusive_min = true});
  v.field("clip_reward", clip_reward,
          {.doc = "bound of a normalised reward (detail 31)", .min = 0, .exclusive_min = true});
  v.field("clip_actions", clip_actions,
          {.doc = "clip continuous actions to their bounds for the environment only; the unclipped "
                  "action is stored and trained on (detail 27)"});
  v.field("scale_pixels", scale_pixels,
          {.doc = "divide u8 observations by 255 before the network (detail 22)"});
  v.used_by(kUsedByAll);
  v.field(
      "address", address,
      {.doc = "server that runs the environments (`bessemer env serve`), as tcp://127.0.0.1:5555; "
              "null: this process",
       .resume = true});
  v.field("keys", keys,
          {.doc = "client's keys for that server, a file or folder of `bessemer env keys`; null: "
                  "none",
           .resume = true,
           .path = true});
  v.field("token", token,
          {.doc = "file with the token for that server; null: none", .resume = true, .path = true});
}

void ModelConfig::fields(FieldVisitor& v) {
  v.field("kind", kind,
          {.doc = "network: fully connected, convolutional, recurrent, or a language model",
           .choices = {"mlp", "cnn", "gru", "decoder"}});
  v.used_by(kUsesControl);
  v.field("hidden", hidden, {.doc = "widths of the hidden layers", .min = 1, .max = 65536});
  v.field("activation", activation,
          {.doc = "between the layers", .choices = {"tanh", "relu", "silu", "gelu"}});
  v.field("separate", separate,
          {.doc = "policy and value have trunks of their own (details 13, 26); false: one shared "
                  "trunk (detail 21)"});
  v.field("orthogonal", orthogonal,
          {.doc = "orthogonal weights with gain sqrt(2), zero biases (detail 2); false: "
                  "uniform(+-1/sqrt(inputs))"});
  v.field("policy_gain", policy_gain,
          {.doc = "orthogonal gain of the policy's last layer", .min = 0, .exclusive_min = true});
  v.field("value_gain", value_gain,
          {.doc = "orthogonal gain of the value's last layer", .min = 0, .exclusive_min = true});
  v.field("log_std_init", log_std_init,
          {.doc = "first value of the log standard deviation (detail 24)", .min = -20, .max = 20});
  v.field("sde", sde,
          {.doc = "state-dependent exploration (gSDE) instead of independent noise a step"});
  v.field("sde_sample_freq", sde_sample_freq,
          {.doc = "steps between new exploration matrices; -1: once a rollout", .min = -1});
  v.field("recurrent_size", recurrent_size,
          {.doc = "width of the recurrent state (kind gru)", .min = 1, .max = 65536});
  v.used_by(kUsesLanguage);
  decoder.fields(v);
  v.used_by(kUsedByAll);
}

void RolloutConfig::fields(FieldVisitor& v) {
  v.used_by(kUsesControl);
  v.field("steps", steps,
          {.doc = "steps of each instance between updates (detail 1)", .min = 1, .max = 1 << 24});
  language.fields(v);
  v.used_by(kUsedByAll);
}

namespace {

/// `stop` is a mapping of metric names to thresholds; the visitor carries mappings as text.
void stop_field(FieldVisitor& v, std::vector<std::pair<std::string, double>>& stop) {
  std::vector<std::pair<std::string, std::string>> text;
  for (auto& [name, bound] : stop) text.emplace_back(name, cat(bound));
  v.field(
      "stop", text,
      {.doc =
           "metric: threshold; the run ends once every listed metric is at least its threshold"});
  stop.clear();
  for (auto& [name, bound] : text) {
    double value = 0;
    const char* end = bound.data() + bound.size();
    const auto read = std::from_chars(bound.data(), end, value);
    BESSEMER_CHECK(read.ec == std::errc() && read.ptr == end, ValueError, "trainer.stop.", name,
                   ": expected a number, got '", bound, "'");
    stop.emplace_back(name, value);
  }
}

}  // namespace

void TrainerConfig::fields(FieldVisitor& v) {
  v.field("algo", algo,
          {.doc = "algorithm", .choices = {"ppo", "appo", "sft", "reward", "dpo", "grpo"}});
  // A longer run keeps its bits only where nothing is scheduled over the whole of it.
  const bool scheduled = lr_schedule != "constant" || clip_schedule != "constant";
  v.field("total_steps", total_steps,
          {.doc = "environment steps of the whole run; language: optimiser steps",
           .min = 1,
           .resume = !scheduled});
  v.field("lr", lr, {.doc = "Adam's learning rate", .min = 0, .exclusive_min = true});
  v.field("lr_schedule", lr_schedule,
          {.doc = "linear, cosine: to 0 at total_steps (detail 4)",
           .choices = {"constant", "linear", "cosine"}});
  v.field("adam_eps", adam_eps,
          {.doc = "Adam's epsilon (detail 3)", .min = 0, .exclusive_min = true});
  v.field("adam_beta1", adam_beta1,
          {.doc = "decay of Adam's first moment", .min = 0, .max = 0.999999});
  v.field("adam_beta2", adam_beta2,
          {.doc = "decay of Adam's second moment", .min = 0, .max = 0.999999});
  v.field("weight_decay", weight_decay, {.doc = "decoupled weight decay (AdamW)", .min = 0});
  v.used_by(kUsesControl | kUsesPpo);
  v.field("gamma", gamma, {.doc = "discount", .min = 0, .max = 1});
  v.field("gae_lambda", gae_lambda,
          {.doc = "lambda of generalised advantage estimation (detail 5)", .min = 0, .max = 1});
  v.used_by(kUsesControl | kUsesOnline);
  v.field("epochs", epochs, {.doc = "passes over each rollout", .min = 1});
  v.used_by(kUsedByAll);
  v.field("batch_size", batch_size,
          {.doc = "samples of a minibatch (kind gru: rounded to whole sequences); language: texts, "
                  "pairs or completions of an optimiser step",
           .min = 1});
  v.used_by(kUsesControl);
  v.field("shuffle", shuffle,
          {.doc = "new minibatch order every epoch (details 6, 35); false: in order of time"});
  v.used_by(kUsesControl | kUsesOnline);
  v.field("clip_range", clip_range,
          {.doc = "clip of the probability ratio (detail 8)", .min = 0, .exclusive_min = true});
  v.used_by(kUsesControl);
  v.field("clip_schedule", clip_schedule,
          {.doc = "linear: clip_range to 0 at total_steps", .choices = {"constant", "linear"}});
  v.used_by(kUsesControl | kUsesPpo);
  v.field("clip_range_vf", clip_range_vf,
          {.doc = "clip of the value's change (detail 9); null: none",
           .min = 0,
           .exclusive_min = true});
  v.used_by(kUsesControl | kUsesPpo);
  v.field("normalize_advantage", normalize_advantage,
          {.doc = "advantages of each minibatch to mean 0, deviation 1 (detail 7)"});
  v.used_by(kUsesControl | kUsesOnline);
  v.field("ent_coef", ent_coef, {.doc = "weight of the entropy bonus (detail 10)", .min = 0});
  v.used_by(kUsesControl | kUsesPpo);
  v.field("vf_coef", vf_coef, {.doc = "weight of the value loss (detail 10)", .min = 0});
  v.used_by(kUsedByAll);
  v.field("max_grad_norm", max_grad_norm,
          {.doc = "clip of the global gradient norm (detail 11); 0: none", .min = 0});
  v.used_by(kUsesControl);
  v.field("target_kl", target_kl,
          {.doc = "ends an iteration's updates once approx_kl exceeds 1.5 times this; null: never",
           .min = 0,
           .exclusive_min = true});
  v.field(
      "truncation_bootstrap", truncation_bootstrap,
      {.doc = "adds gamma * V(final observation) to the reward where a time limit cut an episode"});
  v.used_by(kUsesAppo);
  v.field("surrogate", surrogate,
          {.doc = "clip the ratio to the policy that acted; decoupled: to the one that a fragment "
                  "found; none: IMPALA's policy gradient",
           .choices = {"clip", "decoupled", "none"}});
  v.field("vtrace_rho", vtrace_rho,
          {.doc = "bound of V-trace's weight of an error", .min = 0, .exclusive_min = true});
  v.field("vtrace_c", vtrace_c,
          {.doc = "bound of V-trace's weight of a trace", .min = 0, .exclusive_min = true});
  v.field("kl_penalty", kl_penalty,
          {.doc = "weight of approx_kl in the loss (PPO's section 4)", .min = 0});
  v.used_by(kUsesControl);
  language.fields(v);
  v.used_by(kUsedByAll);
  stop_field(v, stop);
}

void EvalConfig::fields(FieldVisitor& v) {
  v.field("every", every,
          {.doc = "environment steps between evaluations; 0: only at the end",
           .min = 0,
           .resume = true});
  v.field("episodes", episodes,
          {.doc = "episodes of an evaluation; language: held-out items", .min = 1, .resume = true});
  v.field(
      "seed", seed,
      {.doc = "seed of the first episode; the next one's is one more", .min = 0, .resume = true});
  v.field("deterministic", deterministic,
          {.doc = "take the most likely action instead of sampling", .resume = true});
  v.field("bar", bar,
          {.doc = "mean return at which a seed counts as successful; null: the environment's "
                  "reward threshold",
           .resume = true});
  v.used_by(kUsesLanguage);
  v.field("split", split,
          {.doc = "items of a text task that evaluations use",
           .choices = {"train", "test"},
           .resume = true});
  v.field("sweep", sweep,
          {.doc = "reset option and bound, as secret=64: judge by the items 1 to 64 instead of "
                  "eval.episodes drawn ones",
           .resume = true});
  v.used_by(kUsedByAll);
}

std::pair<std::string, int64_t> EvalConfig::swept() const {
  if (!sweep) return {};
  const size_t at = sweep->find('=');
  int64_t count = 0;
  const char* end = sweep->data() + sweep->size();
  const auto read = std::from_chars(sweep->data() + std::min(at + 1, sweep->size()), end, count);
  BESSEMER_CHECK(at != std::string::npos && read.ec == std::errc() && read.ptr == end && count > 0,
                 ValueError, "eval.sweep must be a reset option and a bound, as secret=64, not '",
                 *sweep, "'");
  return {sweep->substr(0, at), count};
}

void PlacementConfig::fields(FieldVisitor& v) {
  v.field("mode", mode,
          {.doc = "where experience is collected: in this process, or by workers in processes of "
                  "their own; the bits of a synchronous run are the same",
           .choices = {"inline", "processes"},
           .resume = true});
  v.field("threads", threads,
          {.doc = "threads that step environments, of all workers together; 0: one a core",
           .min = 0,
           .max = 4096,
           .resume = true});
  v.used_by(kUsesControl | kUsesOnline);
  v.field("workers", workers,
          {.doc = "worker processes, which share env.num (language: rollout.groups); 0: one a core",
           .min = 0,
           .max = 1024,
           .resume = true});
  v.used_by(kUsesAppo | kUsesOnline);
  v.field("max_staleness", max_staleness,
          {.doc = "appo: policy versions that experience may lag behind; what is older is dropped "
                  "and counted. Language: iterations that generation runs ahead of training",
           .min = 0,
           .max = 1 << 20,
           .resume = !lag_decides});
  v.used_by(kUsesControl);
  v.field("server", server,
          {.doc = "true: the environments run in a server process that this run starts, watches "
                  "and restarts",
           .resume = true});
  v.used_by(kUsedByAll);
  v.field("restarts", restarts,
          {.doc = "how often a process of the run is started again when it keeps dying; one that "
                  "ran for a minute begins anew",
           .min = 0,
           .max = 1e6,
           .resume = true});
  v.field("lease", lease,
          {.doc = "seconds of silence after which a process counts as hung and is replaced, and "
                  "that a server at env.address is waited for",
           .min = 0.1,
           .max = 3600,
           .resume = true});
}

void CheckpointConfig::fields(FieldVisitor& v) {
  v.field("every", every,
          {.doc = "environment steps between checkpoints; 0: only at the end",
           .min = 0,
           .resume = true});
  v.field("keep", keep, {.doc = "newest checkpoints kept", .min = 1, .resume = true});
}

void RunConfig::fields(FieldVisitor& v) {
  v.field("seed", seed, {.doc = "of everything random in the run", .min = 0});
  const auto section = [&](std::string_view name, std::string_view doc, auto& config) {
    if (!v.begin(name, {.doc = doc})) return;
    config.fields(v);
    v.end();
  };
  section("env", "what is learned in", env);
  section("model", "the network", model);
  v.used_by(kUsesLanguage);
  section("init", "weights to start from", init);
  v.used_by(kUsesSft | kUsesPairs);
  section("data", "what is learned from", data);
  v.used_by(kUsesOnline);
  section("reward", "what counts as good", reward);
  v.used_by(kUsedByAll);
  section("rollout", "how experience is collected", rollout);
  section("trainer", "how it is learned from", trainer);
  section("eval", "how the policy is judged", eval);
  placement.lag_decides = uses() & kUsesLanguage;
  section("placement", "where the work runs", placement);
  section("checkpoint", "what is kept on disk", checkpoint);
}

namespace {
constexpr int64_t kMostAhead = 64;

int64_t core_count() { return std::max<int64_t>(1, std::thread::hardware_concurrency()); }
}  // namespace

int64_t RunConfig::worker_count() const {
  return placement.workers > 0
             ? placement.workers
             : std::min(core_count(), uses() & kUsesLanguage ? rollout.language.groups : env.num);
}

int64_t RunConfig::worker_threads() const {
  const int64_t all = placement.threads > 0 ? placement.threads : core_count();
  return std::max<int64_t>(1, all / worker_count());
}

uint32_t RunConfig::uses() const {
  const std::string& algo = trainer.algo;
  if (algo == "sft") return kUsesSft;
  if (algo == "reward") return kUsesReward;
  if (algo == "dpo") return kUsesDpo;
  if (algo == "grpo") return kUsesGrpo;
  if (algo == "appo") return kUsesControl | kUsesAppo;
  return algo == "ppo" && model.kind == "decoder" ? kUsesPpo : kUsesControl;
}

int64_t RunConfig::steps_per_iteration() const {
  const uint32_t use = uses();
  if (use == kUsesControl) return rollout.steps * env.num;
  if (!(use & kUsesOnline)) return 1;
  const int64_t samples = rollout.language.groups * rollout.language.size;
  return trainer.epochs * ((samples + trainer.batch_size - 1) / trainer.batch_size);
}

void RunConfig::start_from(std::string_view kind, std::string_view algo) {
  trainer.algo = algo;
  if (!kind.empty()) model.kind = kind;
  if (!(uses() & kUsesLanguage)) return;
  if (kind.empty()) model.kind = "decoder";
  trainer.total_steps = 1000;
  trainer.lr = uses() == kUsesSft ? 1e-3 : 1e-4;
  trainer.adam_eps = 1e-8;
  trainer.gamma = 1;
  trainer.epochs = uses() == kUsesPpo ? 4 : 1;
  trainer.batch_size = 64;
  trainer.clip_range_vf = 0.2;
  trainer.vf_coef = 0.1;
  trainer.max_grad_norm = 1;
  eval.episodes = 512;
  if (uses() == kUsesPpo) {
    trainer.language.kl_coef = 0.05;
    trainer.language.kl = "k1";
    trainer.language.kl_in = "reward";
  }
}

void RunConfig::check() const {
  BESSEMER_CHECK(env.address || !env.keys, ValueError,
                 "env.keys opens a server, but there is no env.address");
  BESSEMER_CHECK(env.address || !env.token, ValueError,
                 "env.token opens a server, but there is no env.address");
  if (uses() & kUsesLanguage) return check_language();
  BESSEMER_CHECK(model.kind != "decoder", ValueError, "model.kind decoder: trainer.algo ",
                 trainer.algo, " does not train language models");
  BESSEMER_CHECK(
      trainer.algo != "appo" || placement.mode == "inline" || placement.max_staleness > 0,
      ValueError,
      "placement.max_staleness is 0: experience of workers that do not wait "
      "for the trainer is at least one version old");
  const int64_t samples = rollout.steps * env.num;
  BESSEMER_CHECK(trainer.batch_size <= samples, ValueError, "trainer.batch_size is ",
                 trainer.batch_size, ", but a rollout has only ", samples,
                 " samples (rollout.steps * env.num)");
  BESSEMER_CHECK(model.kind != "gru" || trainer.batch_size >= rollout.steps, ValueError,
                 "trainer.batch_size is ", trainer.batch_size,
                 ": a recurrent minibatch holds whole sequences, at least rollout.steps = ",
                 rollout.steps, " samples (detail 35)");
  BESSEMER_CHECK(placement.mode == "inline" || placement.workers <= env.num, ValueError,
                 "placement.workers is ", placement.workers, ", but there are only ", env.num,
                 " instances (env.num) to share");
  BESSEMER_CHECK(!model.sde || model.sde_sample_freq != 0, ValueError,
                 "model.sde_sample_freq must be -1 or positive");
}

void RunConfig::check_language() const {
  const uint32_t use = uses();
  BESSEMER_CHECK(model.kind == "decoder", ValueError, "trainer.algo ", trainer.algo,
                 " trains language models: model.kind must be decoder, not ", model.kind);
  BESSEMER_CHECK(!init.from || !init.recipe, ValueError,
                 "init.from and init.recipe exclude each other");
  BESSEMER_CHECK(!init.given() || !model.decoder.path, ValueError,
                 "model.path and init exclude each other: both name the first weights");
  eval.swept();
  BESSEMER_CHECK(placement.mode == "inline" || use & kUsesOnline, ValueError, "placement.mode is ",
                 placement.mode, ": only grpo and ppo have workers, ", trainer.algo,
                 " runs in one process (inline)");
  BESSEMER_CHECK(!(use & kUsesOnline) || placement.workers <= rollout.language.groups, ValueError,
                 "placement.workers is ", placement.workers, ", but there are only ",
                 rollout.language.groups, " groups (rollout.groups) to share");
  BESSEMER_CHECK(placement.max_staleness <= kMostAhead, ValueError, "placement.max_staleness is ",
                 placement.max_staleness, ": generation runs at most ", kMostAhead,
                 " iterations ahead");
  if (use & (kUsesPairs | kUsesOnline)) {
    const int64_t samples = rollout.language.groups * rollout.language.size;
    BESSEMER_CHECK(!(use & kUsesOnline) || trainer.batch_size <= samples, ValueError,
                   "trainer.batch_size is ", trainer.batch_size, ", but an iteration has only ",
                   samples, " completions (rollout.groups * rollout.size)");
  }
  if (use == kUsesGrpo) {
    const int64_t size = rollout.language.size;
    BESSEMER_CHECK(size > 1, ValueError,
                   "rollout.size is 1: grpo compares the completions of a prompt with each other");
  }
  if (use & kUsesOnline) {
    const int64_t size = rollout.language.size;
    BESSEMER_CHECK(trainer.batch_size % size == 0, ValueError, "trainer.batch_size is ",
                   trainer.batch_size, ", which is not whole groups of rollout.size = ", size);
  }
  if (use & kUsesOnline) {
    BESSEMER_CHECK(reward.from == "env" || reward.from == "model" || reward.from.starts_with("py:"),
                   ValueError, "reward.from must be env, model or py:FILE.py:FUNCTION, not '",
                   reward.from, "'");
    BESSEMER_CHECK((reward.from == "model") == reward.model.given(), ValueError,
                   "reward.model and 'reward.from: model' belong together");
    BESSEMER_CHECK(trainer.language.overlong_buffer <= rollout.language.max_tokens, ValueError,
                   "trainer.overlong_buffer does not fit into rollout.max_tokens = ",
                   rollout.language.max_tokens);
  }
  if (model.decoder.vocabulary != "bytes") {
    BESSEMER_CHECK(!data.from.recipe, ValueError,
                   "model.vocabulary: the completions of a run have its vocabulary; start from its "
                   "weights");
    int64_t size = 0;
    const std::string& text = model.decoder.vocabulary;
    const auto read = std::from_chars(text.data(), text.data() + text.size(), size);
    BESSEMER_CHECK(
        read.ec == std::errc() && read.ptr == text.data() + text.size() && size > 258, ValueError,
        "model.vocabulary must be bytes or a number of entries above 258, not '", text, "'");
  }
}

namespace {

/// Hashes "section.key=value" of the keys that decide what a run computes.
class HashVisitor : public FieldVisitor {
 public:
  explicit HashVisitor(uint32_t uses) : uses_(uses) {}
  uint64_t hash = 0xcbf29ce484222325ull;

  void field(std::string_view name, bool& value, const FieldInfo& info) override {
    add(name, info, value);
  }
  void field(std::string_view name, int64_t& value, const FieldInfo& info) override {
    add(name, info, value);
  }
  void field(std::string_view name, double& value, const FieldInfo& info) override {
    add(name, info, value);
  }
  void field(std::string_view name, std::string& value, const FieldInfo& info) override {
    add(name, info, value);
  }
  void field(std::string_view name, std::vector<int64_t>& value, const FieldInfo& info) override {
    add(name, info, value);
  }
  void field(std::string_view name, std::optional<double>& value, const FieldInfo& info) override {
    value ? add(name, info, *value) : add(name, info, "null");
  }
  void field(std::string_view name, std::optional<int64_t>& value, const FieldInfo& info) override {
    value ? add(name, info, *value) : add(name, info, "null");
  }
  void field(std::string_view name, std::optional<std::string>& value,
             const FieldInfo& info) override {
    value ? add(name, info, *value) : add(name, info, "null");
  }
  void field(std::string_view name, std::vector<std::pair<std::string, std::string>>& value,
             const FieldInfo& info) override {
    for (auto& [key, text] : value) add(name, info, key, ":", text);
  }
  void field(std::string_view name, Source& value, const FieldInfo& info) override {
    add(name, info, value.recipe ? "recipe:" : "", value.path);
  }
  bool begin(std::string_view name, const FieldInfo&) override {
    section_ = name;
    return true;
  }
  void end() override { section_.clear(); }

 private:
  template <class... Value>
  void add(std::string_view name, const FieldInfo& info, const Value&... value) {
    if (info.resume || !(users() & uses_)) return;
    for (const char c : cat(section_, ".", name, "=", value..., "\n"))
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  }
  uint32_t uses_;
  std::string section_;
};

}  // namespace

std::string RunConfig::hash() const {
  HashVisitor visitor(uses());
  RunConfig copy = *this;
  copy.fields(visitor);
  std::string text(16, '0');
  for (int i = 0; i < 16; ++i) text[i] = "0123456789abcdef"[visitor.hash >> (60 - 4 * i) & 15];
  return text;
}

}  // namespace bessemer

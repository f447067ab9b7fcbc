#include "trainer/language/trainer.h"

#include <algorithm>
#include <cmath>

#include "autograd/engine.h"
#include "trainer/control.h"
#include "trainer/schedule.h"

namespace bessemer {

namespace {

constexpr int64_t kShown = 8;      // completions of an iteration or an evaluation that are kept
constexpr int64_t kGoodEvery = 8;  // steps between copies of good weights
constexpr uint64_t kEvaluation = uint64_t{1} << 62;  // draws of evaluations, apart from training's

/// A data file speaks for itself: no environment.
Spec spec_of_texts() {
  Spec spec;
  spec.id = "texts";
  spec.doc = "Examples of a file.";
  return spec;
}

std::unique_ptr<EnvBatch> one_env(const EnvFactory& make_envs) { return make_envs(BatchOptions{}); }

}  // namespace

LanguageTrainer::LanguageTrainer(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs,
                                 bool head)
    : config_(config), pool_(pool), make_envs_(std::move(make_envs)) {
  if (has_envs()) {
    spec_ = one_env(make_envs_ ? make_envs_ : registry_factory(config_.env))->spec();
    check_text_spec(spec_);
  } else {
    spec_ = spec_of_texts();
  }
  model_ = make_language_model(config_, head, [this] {
    if (!config_.data.file.empty()) return dataset_strings(config_.data.file);
    constexpr int64_t kItems = 2048;
    std::vector<uint64_t> seeds;
    for (int64_t i = 0; i < kItems; ++i) seeds.push_back(item_seed(i));
    std::vector<std::string> texts;
    for (const std::vector<Turn>& turns : oracle_conversations(task("train"), seeds))
      for (const Turn& turn : turns) {
        texts.push_back(cat(role_name(turn.role), '\n'));  // the template's words count, too
        texts.push_back(turn.content);
      }
    return texts;
  });
  const int64_t context = model_.decoder->config().max_position_embeddings;
  BESSEMER_CHECK(!has_envs() || config_.rollout.language.max_tokens <= context, ValueError,
                 "rollout.max_tokens is ", config_.rollout.language.max_tokens,
                 ", but the model's context holds only ", context, " tokens");
  named_ = model_.named();
  std::vector<Tensor> parameters;
  for (auto& [name, tensor] : named_) parameters.push_back(tensor);
  const TrainerConfig& t = config_.trainer;
  adam_ = std::make_unique<nn::Adam>(
      std::move(parameters),
      nn::AdamOptions{t.adam_beta1, t.adam_beta2, t.adam_eps, t.weight_decay});
}

int64_t LanguageTrainer::parameters() const {
  int64_t count = 0;
  for (auto& [name, tensor] : named_) count += tensor.numel();
  return count;
}

int64_t LanguageTrainer::memory_bytes() const {
  const int64_t tokens = config_.trainer.language.micro_tokens;
  const nn::DecoderMemory m = nn::decoder_memory(model_.decoder->config(), tokens);
  constexpr int64_t kBatch = 64;  // sequences that generate side by side
  const int64_t cache = m.cache * kBatch * model_.decoder->config().max_position_embeddings;
  const int64_t good = parameters() * 3 * 4;  // weights and moments to return to
  return m.weights + m.training + m.activation * tokens + m.shared + cache + good;
}

EpisodeEnvs& LanguageTrainer::task(const std::string& split) {
  const auto found = tasks_.find(split);
  if (found != tasks_.end()) return found->second;
  EnvFactory make = make_envs_ ? make_envs_ : split_factory(config_.env, spec_, split);
  return tasks_.try_emplace(split, std::move(make), &pool_).first->second;
}

uint64_t LanguageTrainer::item_seed(int64_t index) const {
  const Rng rng{static_cast<uint64_t>(config_.seed), Stream::data};
  const PhiloxBlock block = rng.at(static_cast<uint64_t>(index));
  return uint64_t{block.word[0]} << 32 | block.word[1];
}

Generator& LanguageTrainer::generator() {
  if (!generator_) {
    GeneratorOptions options;
    options.seed = static_cast<uint64_t>(config_.seed);
    generator_ = std::make_unique<Generator>(*model_.decoder, options);
  }
  generator_->set_version(static_cast<uint64_t>(updates()));
  return *generator_;
}

SamplingOptions LanguageTrainer::sampling() const {
  const GenerationKeys& keys = config_.rollout.language;
  SamplingOptions out;
  out.temperature = keys.temperature;
  out.top_k = keys.top_k;
  out.top_p = keys.top_p;
  out.max_tokens = keys.max_tokens;
  return out;
}

PlayOptions LanguageTrainer::next_play(int64_t groups, Counters& counters) const {
  PlayOptions play;
  play.size = config_.rollout.language.size;
  play.sampling = sampling();
  play.first_sequence = static_cast<uint64_t>(counters.completions);
  for (int64_t i = 0; i < groups; ++i) play.seeds.push_back(item_seed(counters.items++));
  counters.completions += groups * play.size;
  return play;
}

std::vector<Episode> LanguageTrainer::play(const PlayOptions& options, Generator& generator) {
  return play_episodes(task("train"), generator, *model_.tokenizer, options);
}

PackOptions LanguageTrainer::packing(bool whole, bool divide) const {
  return {config_.trainer.language.micro_tokens, whole, divide};
}

void LanguageTrainer::count_tokens(std::span<const Text> texts, Metrics& metrics) {
  for (const Text& text : texts)
    for (const Continuation& one : text.continuations)
      counters_.tokens += static_cast<int64_t>(text.prompt.size() + one.tokens.size());
  metrics.last("num_tokens", static_cast<double>(counters_.tokens));
}

double LanguageTrainer::learning_rate() const {
  const TrainerConfig& t = config_.trainer;
  const auto step = static_cast<double>(steps_);
  const double progress = std::min(step / static_cast<double>(t.total_steps), 1.0);
  const auto warmup = static_cast<double>(t.language.warmup_steps);
  const double grown = step < warmup ? (step + 1) / warmup : 1.0;
  return t.lr * grown * schedule_factor(t.lr_schedule, progress);
}

void LanguageTrainer::iterate(Metrics& metrics) {
  begin_ = {learned(), steps_};
  try {
    learn(metrics);
  } catch (const NotFiniteError& error) {
    const int64_t step = steps_ + 1;
    return_to(good_place_);
    fail<NotFiniteError>("[", config_.trainer.algo, "] ", error.what(), " at step ", step,
                         " (back at step ", steps_, ", the last good one)");
  } catch (...) {
    return_to(steps_ == begin_.steps ? begin_ : good_place_);
    throw;
  }
}

EvalResult LanguageTrainer::evaluate(int64_t episodes, int64_t seed, bool deterministic) {
  try {
    return judge(episodes, seed, deterministic);
  } catch (const NotFiniteError& error) {
    const int64_t step = steps_;
    return_to(good_place_);
    fail<NotFiniteError>("[", config_.trainer.algo, "] ", error.what(),
                         " in the evaluation after step ", step, " (back at step ", steps_,
                         ", the last good one)");
  }
}

/// Weights are written by optimise() alone, which keeps the good ones before: those of `place` are
/// either still there or the ones that were kept.
void LanguageTrainer::return_to(const Place& place) {
  if (steps_ != place.steps) good_.restore(named_, *adam_);
  for (const Tensor& p : adam_->parameters()) clear_grad(p);
  generator_.reset();  // sequences may be under way
  drop_ahead();
  counters_ = place.counters;
  steps_ = place.steps;
}

void LanguageTrainer::add_means(const Metrics& measured, EvalResult& result) {
  for (const auto& [name, value] : measured.values())
    result.means.emplace_back(cat("eval/", name), value.value());
}

void LanguageTrainer::check_held_out(const Dataset& data) const {
  BESSEMER_CHECK(!data.test.empty(), ValueError, "data.holdout is ", config_.data.holdout,
                 ", which leaves none of the ", data.train.size(), " examples of ",
                 config_.data.file, " to be judged by");
}

void LanguageTrainer::check_finite(std::span<const float> values, std::string_view name) {
  BESSEMER_CHECK(all_finite(values), NotFiniteError, name, " is not finite");
}

void LanguageTrainer::optimise(double loss, Metrics& metrics) {
  std::vector<Tensor> gradients;
  for (const Tensor& p : adam_->parameters()) {
    gradients.push_back(grad(p));
    clear_grad(p);
  }
  BESSEMER_CHECK(std::isfinite(loss), NotFiniteError, "the loss is ", loss);
  const double norm = nn::grad_norm(gradients);
  if (!std::isfinite(norm)) {
    const std::string_view name = first_not_finite(named_, gradients);
    fail<NotFiniteError>("the gradient of ", name.empty() ? "all weights together" : name,
                         " is not finite");
  }
  // Finite to the end: the weights are good. A copy costs as much as a step of the optimiser.
  const bool due = config_.steps_per_iteration() > 1 || good_.empty() ||
                   steps_ >= good_place_.steps + kGoodEvery;
  if (steps_ == begin_.steps && due) {
    good_.keep(named_, *adam_);
    good_place_ = begin_;
  }
  const double lr = learning_rate();
  adam_->step(gradients, lr, nn::clip_scale(norm, config_.trainer.max_grad_norm));
  ++steps_;
  metrics.mean("grad_norm", norm);
  metrics.last("learning_rate", lr);
}

EvalResult LanguageTrainer::judge(int64_t episodes, int64_t seed, bool deterministic) {
  BESSEMER_CHECK(has_envs(), ValueError, "env.id is missing: there is nothing to be judged by");
  PlayOptions play;
  play.sampling.max_tokens = config_.rollout.language.max_tokens;
  play.sampling.temperature = deterministic ? 0 : config_.rollout.language.temperature;
  play.first_sequence = kEvaluation;
  const auto [option, count] = config_.eval.swept();
  if (count > 0) episodes = count;
  for (int64_t i = 0; i < episodes; ++i) {
    play.seeds.push_back(static_cast<uint64_t>(seed + i));
    if (count > 0) play.reset.push_back({{option, std::to_string(i + 1)}});
  }
  const std::vector<Episode> all =
      play_episodes(task(config_.eval.split), generator(), *model_.tokenizer, play);
  EvalResult out;
  out.scores = true;
  double turns = 0, reward = 0, cut = 0, faults = 0;
  std::vector<double> components(spec_.rewards.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const Episode& episode = all[i];
    // Who fails has not answered: no score, and counted.
    const bool fault = !episode.fault.empty() || !std::isfinite(episode.reward);
    const double score = episode.components.empty() ? episode.reward : episode.components[0];
    out.returns.push_back(fault ? 0 : score);
    out.lengths.push_back(episode.length());
    turns += static_cast<double>(episode.turns);
    cut += episode.cut;
    faults += fault;
    if (!fault) reward += episode.reward;
    for (size_t c = 0; !fault && c < components.size() && c < episode.components.size(); ++c)
      components[c] += episode.components[c];
    if (static_cast<int64_t>(i) < kShown)
      completions_.push_back(record(episode, "eval", static_cast<int64_t>(i)));
  }
  const auto n = static_cast<double>(all.size());
  out.means.emplace_back("eval/reward", reward / n);
  for (size_t c = 0; c < components.size(); ++c) {
    const std::string_view name = spec_.rewards[c].name;
    out.means.emplace_back(cat("eval/rewards/", name.substr(name.find('.') + 1)),
                           components[c] / n);
  }
  out.means.emplace_back("eval/clipped_ratio", cut / n);
  out.means.emplace_back("eval/mean_turns", turns / n);
  if (faults > 0) out.means.emplace_back("eval/faults", faults / n);
  return out;
}

CompletionRecord LanguageTrainer::record(const Episode& episode, const char* kind,
                                         int64_t group) const {
  CompletionRecord out;
  out.kind = kind;
  out.group = group;
  out.prompt = episode.question;
  out.completion = model_.tokenizer->decode(episode.continuation.tokens);
  out.oracle = episode.oracle;
  out.tokens = episode.continuation.tokens;
  out.trained = episode.continuation.trained;
  for (const int32_t id : out.tokens) out.texts.emplace_back(model_.tokenizer->token(id));
  size_t next = 0;
  for (const uint8_t own : out.trained)
    out.log_prob.push_back(own ? episode.log_prob[next++] : 0.0f);
  for (size_t c = 0; c < episode.components.size(); ++c) {
    const std::string& name = spec_.rewards[c].name;
    out.rewards.emplace_back(name.substr(name.find('.') + 1), episode.components[c]);
  }
  out.reward = episode.reward;
  out.turns = episode.turns;
  out.cut = episode.cut;
  out.finish = !episode.fault.empty() ? episode.fault : episode.cut ? "length" : "stop";
  return out;
}

std::vector<CompletionRecord> LanguageTrainer::take_completions() {
  return std::exchange(completions_, {});
}

std::unique_ptr<Actor> LanguageTrainer::actor(bool, int64_t) const {
  fail<ValueError>("a language model speaks; it has no picture to act in");
}

}  // namespace bessemer

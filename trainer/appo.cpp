#include "trainer/appo.h"

#include <algorithm>
#include <chrono>

#include "rollout/inline_fragments.h"
#include "rollout/sampler.h"

namespace bessemer {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr std::string_view kDropped = "dropped.";  // counters of a checkpoint

}  // namespace

Appo::Appo(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs,
           const SourceFactory& sources)
    : ActorCritic(config, pool, std::move(make_envs), sources.fragments != nullptr) {
  if (!sources.fragments) {
    source_ = std::make_unique<InlineFragments>(inline_sampler());
    return;
  }
  // Two fragments a worker keep it busy while one is learned from; more would only grow old.
  SourceRequest request = source_request();
  const int64_t workers = config_.worker_count();
  request.fragments = std::clamp(config_.placement.max_staleness + 1, workers, 2 * workers);
  source_ = sources.fragments(request);
}

void Appo::iterate(Metrics& metrics) {
  const auto start = Clock::now();
  const int64_t wanted = config_.rollout.steps * config_.env.num;
  int64_t samples = 0, fragments = 0, lags = 0, oldest = 0;
  Totals totals;
  waited_ = 0;
  try {
    if (!published_) publish();
    while (samples < wanted || totals.rollouts == 0) {
      const Fragment fragment = wait();
      const int64_t size = fragment.rollout.steps * fragment.rollout.rows;
      const int64_t lag = version_ - fragment.version;
      samples += size;
      ++fragments;
      lags += lag;
      oldest = std::max(oldest, lag);
      remember(fragment.episodes);
      if (lag > config_.placement.max_staleness) {
        past_.dropped["stale"] += size;
        continue;
      }
      train(fragment, lag, totals);
      ++version_;
      publish();
    }
  } catch (const std::exception& error) {
    if (dynamic_cast<const NotFiniteError*>(&error)) restore_good();
    steps_ += samples;  // they were taken, and the books say what became of them
    throw;
  }
  const double seconds = seconds_since(start);
  seconds_ += seconds;
  timed_steps_ += samples;
  report(totals, samples, metrics);
  steps_ += samples;
  ++iterations_;

  metrics.last("rollout/staleness_mean",
               static_cast<double>(lags) / static_cast<double>(fragments));
  metrics.last("rollout/staleness_max", static_cast<double>(oldest));
  const SampleBooks books = this->books();
  metrics.last("rollout/produced", static_cast<double>(books.produced));
  metrics.last("rollout/trained", static_cast<double>(books.trained));
  metrics.last("rollout/queued", static_cast<double>(books.queued));
  for (auto& [reason, count] : books.dropped)
    metrics.last(cat("rollout/dropped/", reason), static_cast<double>(count));
  metrics.last("train/version", static_cast<double>(version_));
  metrics.last("time/waiting", waited_ / seconds);
}

/// The next fragment, however long it takes: a source whose workers are gone for good throws.
Fragment Appo::wait() {
  const auto start = Clock::now();
  std::optional<Fragment> fragment;
  while (!fragment) fragment = source_->take(1);
  waited_ += seconds_since(start);
  taken_ += fragment->rollout.steps * fragment->rollout.rows;
  return std::move(*fragment);
}

void Appo::publish() {
  source_->publish(acting_weights(version_, *policy_, *normalizer_));
  published_ = true;
}

void Appo::train(const Fragment& fragment, int64_t lag, Totals& totals) {
  const Rollout& data = fragment.rollout;
  const TrainerConfig& config = config_.trainer;
  const int64_t size = data.steps * data.rows;
  past_.dropped["not_finite"] += size;  // unless it turns out to be finite
  check_rollout(data);
  if (lag == 0) {  // the very weights that acted: a forward pass would give these bits
    appraisal_ = {data.log_prob.vector(), data.value.vector(), data.last_value.vector()};
  } else {
    appraise(data, appraisal_);
    check_finite(appraisal_.log_prob, "log_prob of the newest policy");
    check_finite(appraisal_.value, "value of the newest policy");
    check_finite(appraisal_.last_value, "value of the newest policy");
  }
  keep_good();  // finite over a whole fragment
  VtraceInputs in;
  in.steps = data.steps;
  in.rows = data.rows;
  in.log_prob = appraisal_.log_prob.data();
  in.old_log_prob = data.log_prob.data();
  in.reward = data.reward.data();
  in.value = appraisal_.value.data();
  in.ended = data.ended.data();
  in.fault = data.fault.data();
  in.last_value = appraisal_.last_value.data();
  in.gamma = config.gamma;
  in.lambda = config.gae_lambda;
  in.rho = config.vtrace_rho;
  in.c = config.vtrace_c;
  vtrace(in, vtrace_);

  Experience experience{data, data.log_prob, appraisal_.value, vtrace_.advantage, vtrace_.target};
  if (config.surrogate == "decoupled") experience.old_log_prob = appraisal_.log_prob;
  if (config.surrogate != "clip") experience.weight = vtrace_.weight;
  const int64_t used = learn(experience, totals);
  normalizer_->update(data.steps, fragment.first_row, data.rows, data.obs.data(),
                      data.raw_reward.data(), data.ended.data());
  past_.dropped["not_finite"] -= size;
  past_.trained += used;
  if (used < size) past_.dropped["fault"] += size - used;
}

PpoLoss Appo::loss(const PpoBatch& batch, PpoGradient& gradient) const {
  const TrainerConfig& config = config_.trainer;
  PpoLossOptions options;
  options.clip_range = clip_range();
  options.clip_range_vf = config.clip_range_vf;
  options.normalize_advantage = config.normalize_advantage;
  options.ent_coef = config.ent_coef;
  options.vf_coef = config.vf_coef;
  options.kl_coef = config.kl_penalty;
  options.surrogate = config.surrogate != "none";
  return ppo_loss(batch, options, gradient);
}

SampleBooks Appo::books() const {
  SampleBooks books = past_;
  const SampleCounts counts = source_->counts();
  int64_t lost = 0, gone = books.trained;
  for (auto& [reason, count] : counts.lost) {
    books.dropped[reason] += static_cast<int64_t>(count);
    lost += static_cast<int64_t>(count);
  }
  std::erase_if(books.dropped, [](const auto& entry) { return entry.second == 0; });
  for (auto& [reason, count] : books.dropped) gone += count;
  books.queued = static_cast<int64_t>(counts.queued);
  books.produced = past_.produced + static_cast<int64_t>(counts.produced);
  BESSEMER_CHECK(books.produced == gone + books.queued &&
                     static_cast<int64_t>(counts.produced) == taken_ + books.queued + lost,
                 Error, "[appo] the books do not balance: ", books.produced, " samples produced, ",
                 books.trained, " trained, ", gone - books.trained, " dropped, ", books.queued,
                 " queued");
  return books;
}

std::map<std::string, int64_t> Appo::counters() const {
  const SampleBooks books = this->books();
  std::map<std::string, int64_t> out = {{"version", version_}, {"trained", books.trained}};
  for (auto& [reason, count] : books.dropped) out[cat(kDropped, reason)] = count;
  return out;
}

void Appo::restore_counters(const std::map<std::string, int64_t>& counters) {
  for (const char* name : {"version", "trained"})
    BESSEMER_CHECK(counters.contains(name), ValueError, "the checkpoint lacks the counter '", name,
                   "'");
  version_ = counters.at("version");
  past_ = {};
  past_.trained = past_.produced = counters.at("trained");
  for (auto& [name, count] : counters) {
    if (!name.starts_with(kDropped)) continue;
    past_.dropped[name.substr(kDropped.size())] = count;
    past_.produced += count;
  }
}

}  // namespace bessemer

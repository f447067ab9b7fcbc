#include "rollout/worker_source.h"

#include <algorithm>

#include "rollout/normalizer.h"
#include "rollout/sample_message.h"

namespace bessemer {

namespace {
constexpr double kPatience = 1e6;  // seconds: the hub says when there is nothing to wait for
}

WorkerSource::WorkerSource(WorkerHub& hub, const Policy& policy, const Normalizer& normalizer)
    : hub_(hub),
      policy_(policy),
      normalizer_(normalizer),
      rollout_(make_rollout(hub.options().shape)) {}

void WorkerSource::collect(int64_t version, std::vector<EpisodeEnd>& episodes) {
  hub_.publish(std::make_shared<const WeightSet>(acting_weights(version, policy_, normalizer_)));
  hub_.begin_round();
  const size_t workers = hub_.names().size();
  std::vector<std::vector<EpisodeEnd>> parts(workers);
  std::vector<std::string> reasons(workers);
  std::vector<size_t> owner(static_cast<size_t>(rollout_.rows));
  rollout_.faults = 0;
  for (size_t received = 0; received < workers;) {
    const std::optional<WorkerSamples> samples = hub_.take(kPatience);
    if (!samples) continue;
    ++received;
    const auto index = static_cast<size_t>(samples->index);
    // Copied while the others still collect.
    read_rollout_rows(samples->message, samples->shape, samples->first_row, rollout_);
    parts[index] = read_episodes(samples->message);
    reasons[index] = samples->message.fields.text("fault_reason", "");
    std::fill_n(owner.begin() + samples->first_row, samples->shape.rows, index);
  }
  std::fill(rollout_.version.begin(), rollout_.version.end(), version);

  // Ends in order of time, then row, as one sampler lists them; the reason of the last fault.
  std::vector<size_t> next(workers);
  for (size_t i = 0; i < rollout_.ended.size(); ++i) {
    const size_t worker = owner[i % owner.size()];
    if (rollout_.fault[i]) rollout_.fault_reason = reasons[worker];
    if (!rollout_.ended[i] || rollout_.fault[i]) continue;
    BESSEMER_CHECK(next[worker] < parts[worker].size(), IoError, "[workers] ", hub_.names()[worker],
                   " sent ", parts[worker].size(), " ends of episodes, fewer than its flags say");
    episodes.push_back(parts[worker][next[worker]++]);
  }
}

WorkerFragments::WorkerFragments(WorkerHub& hub) : hub_(hub) { hub_.begin_stream(); }

void WorkerFragments::publish(const WeightSet& weights) {
  hub_.publish(std::make_shared<const WeightSet>(weights));
}

std::optional<Fragment> WorkerFragments::take(double seconds) {
  const std::optional<WorkerSamples> samples = hub_.take(seconds);
  if (!samples) return std::nullopt;
  Fragment out;
  out.worker = samples->worker;
  out.number = samples->number;
  out.version = samples->version;
  out.first_row = samples->first_row;
  out.rollout = read_rollout(samples->message, samples->shape);
  std::fill(out.rollout.version.begin(), out.rollout.version.end(), out.version);
  out.episodes = read_episodes(samples->message);
  return out;
}

int64_t WorkerFragments::memory_bytes() const {
  const WorkerHubOptions& options = hub_.options();
  const int64_t largest = rollout_bytes(options.shape) / options.workers +
                          rollout_bytes(options.shape) / options.shape.rows;
  return largest * (options.fragments > 0 ? options.fragments : 2 * options.workers);
}

}  // namespace bessemer

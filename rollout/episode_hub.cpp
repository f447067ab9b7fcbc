#include "rollout/episode_hub.h"

#include <algorithm>

#include "core/base/trace.h"
#include "rollout/episode_message.h"

namespace bessemer {

using wire::Code;
using wire::Message;

namespace {

/// Enough that workers share a round evenly, few enough that their batches are large.
constexpr int64_t kJobsOfAWorker = 2;

TaskHubOptions with_room(TaskHubOptions options, const nn::Decoder& decoder) {
  BESSEMER_CHECK(options.workers >= 1, ValueError, "placement.workers is ", options.workers);
  for (const auto& [name, tensor] : decoder.named_parameters())
    options.message_bytes += tensor.numel() * dtype_size(tensor.dtype());
  return options;
}

}  // namespace

bool EpisodeHub::Round::done() const { return std::ranges::all_of(jobs, &Job::done); }

std::vector<Episode> EpisodeHub::Round::episodes() const {
  std::vector<Episode> out;
  for (const Job& job : jobs) out.insert(out.end(), job.episodes.begin(), job.episodes.end());
  return out;
}

EpisodeHub::EpisodeHub(TaskHubOptions options, wire::Map setup, const nn::Decoder& decoder)
    : TaskHub(with_room(std::move(options), decoder), std::move(setup)), decoder_(decoder) {
  listen();
}

void EpisodeHub::publish(int64_t version) {
  auto weights =
      std::make_shared<const WeightSet>(make_weights(version, decoder_.named_parameters()));
  const std::lock_guard lock(mutex_);
  weights_ = std::move(weights);
}

void EpisodeHub::submit(const PlayOptions& play) {
  check_play(play);
  const std::lock_guard lock(mutex_);
  const auto groups = static_cast<int64_t>(play.seeds.size());
  const int64_t count = std::min(groups, kJobsOfAWorker * static_cast<int64_t>(names().size()));
  Round& round = rounds_.emplace_back();
  round.weights = weights_;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = groups * i / count, last = groups * (i + 1) / count;
    Job& job = round.jobs.emplace_back();
    job.number = jobs_++;
    job.play = play;
    job.play.seeds.assign(play.seeds.begin() + first, play.seeds.begin() + last);
    job.play.first_sequence += static_cast<uint64_t>(first * play.size);
  }
  wake();
}

std::optional<TaskHub::Task> EpisodeHub::next_task(size_t worker) {
  for (Round& round : rounds_)
    for (Job& job : round.jobs) {
      if (job.worker || job.done) continue;
      job.worker = worker;
      Task task;
      task.number = job.number;
      task.weights = round.weights;
      write_play(task.message, job.play);
      return task;
    }
  return std::nullopt;
}

EpisodeHub::Job* EpisodeHub::job_of(size_t worker) {
  for (Round& round : rounds_)
    for (Job& job : round.jobs)
      if (job.worker == worker && !job.done) return &job;
  return nullptr;
}

uint64_t EpisodeHub::receive(size_t worker, Message& message) {
  Job* job = job_of(worker);
  if (!job) wire::refuse(Code::mismatch, "[episodes] nobody asked ", names()[worker], " for these");
  std::vector<Episode> episodes = episodes_of(read_tokens(message));
  const size_t wanted = job->play.seeds.size() * static_cast<size_t>(job->play.size);
  bool right = episodes.size() == wanted;
  uint64_t sampled = 0;
  for (size_t i = 0; right && i < wanted; ++i) {
    const auto version = static_cast<uint64_t>(seats_[worker].task_version);
    right = episodes[i].sequence == job->play.first_sequence + i &&
            std::ranges::all_of(episodes[i].version, [=](uint64_t v) { return v == version; });
    sampled += static_cast<uint64_t>(episodes[i].length());
  }
  if (!right) {
    wire::refuse(Code::malformed, "[episodes] job ", job->number, " asked for ", wanted,
                 " sequences from ", job->play.first_sequence, " on with weights of version ",
                 seats_[worker].task_version, "; others came");
  }
  job->episodes = std::move(episodes);
  job->done = true;
  return sampled;
}

void EpisodeHub::left(size_t worker) {
  if (Job* job = job_of(worker)) job->worker.reset();
}

std::vector<Episode> EpisodeHub::take() {
  const trace::Span span("wait for workers");
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return rounds_.front().done() || troubled(); });
  if (!rounds_.front().done()) {
    wake();  // who failed may try again
    raise();
  }
  const Round round = std::move(rounds_.front());
  rounds_.pop_front();
  for (const Job& job : round.jobs)
    if (job.worker) --seats_[*job.worker].queued;
  return round.episodes();
}

std::vector<std::vector<Episode>> EpisodeHub::ahead() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return std::ranges::all_of(rounds_, &Round::done) || troubled(); });
  std::vector<std::vector<Episode>> out;
  for (const Round& round : rounds_) {
    if (!round.done()) break;
    out.push_back(round.episodes());
  }
  return out;
}

void EpisodeHub::restore(std::vector<std::vector<Episode>> rounds) {
  const std::lock_guard lock(mutex_);
  rounds_.clear();
  forget_tasks();
  for (std::vector<Episode>& episodes : rounds) {
    Job done;
    done.done = true;
    done.episodes = std::move(episodes);
    rounds_.emplace_back().jobs.push_back(std::move(done));
  }
}

}  // namespace bessemer

#include "envs/server/reward_host.h"

#include <algorithm>
#include <cmath>

namespace bessemer {
namespace {

using wire::List;
using wire::Map;
using wire::Value;

/// A call's header may hold a whole batch of conversations.
constexpr wire::UnpackLimits kAnswerLimits{.depth = 4, .values = size_t{1} << 24};

List part(const List& list, size_t begin, size_t end) {
  return {list.begin() + static_cast<int64_t>(begin), list.begin() + static_cast<int64_t>(end)};
}

List texts(const std::vector<std::string>& values) { return {values.begin(), values.end()}; }

/// The scores of an answer into `out`, which has one place for each.
void read_scores(std::string_view payload, std::span<Score> out) {
  const Map answer = wire::unpack(payload, kAnswerLimits);
  const List& scores = answer.list("scores");
  if (scores.size() != out.size()) {
    throw HostError(cat(scores.size(), " scores for ", out.size(), " completions"));
  }
  for (size_t i = 0; i < out.size(); ++i) {
    if (const auto* fault = std::get_if<std::string>(&scores[i].data())) {
      out[i].fault = *fault;
    } else {
      out[i].value = scores[i].number("score");
      if (!std::isfinite(out[i].value)) out[i].fault = cat("the score is ", out[i].value);
    }
  }
}

}  // namespace

RewardHost::RewardHost(const std::string& spec, const RewardOptions& options) : options_(options) {
  BESSEMER_CHECK(spec.starts_with("py:"), ValueError, "[reward] '", spec,
                 "' is no function: expected py:file.py:name");
  BESSEMER_CHECK(options.processes >= 1 && options.processes <= 1024, ValueError,
                 "[reward] processes is ", options.processes, ", expected 1 to 1024");
  BESSEMER_CHECK(options.deadline > 0, ValueError, "[reward] deadline is ", options.deadline,
                 ", expected more than 0 seconds");
  const HostOptions host{.deadline = options.deadline,
                         .start_deadline = options.start_deadline,
                         .memory = options.memory};
  processes_.reserve(static_cast<size_t>(options.processes));
  for (int64_t i = 0; i < options.processes; ++i) {
    processes_.emplace_back(spec.substr(3), "function", host);
  }
  try {
    for (HostProcess& process : processes_) process.start();
    for (HostProcess& process : processes_) process.answer(options.start_deadline);
  } catch (const HostGone& gone) {
    throw HostError(cat("[reward] ", spec, ": ", gone.what()));
  }
}

void RewardHost::start(HostProcess& process) {
  process.start();
  process.answer(options_.start_deadline);
}

std::vector<Score> RewardHost::score(const List& prompts, const List& completions,
                                     const Map& columns) {
  const size_t items = completions.size();
  BESSEMER_CHECK(prompts.size() == items, ValueError, "[reward] ", prompts.size(), " prompts for ",
                 items, " completions");
  for (const auto& [name, column] : columns.items) {
    const size_t size = column.list(name).size();
    BESSEMER_CHECK(size == items, ValueError, "[reward] column '", name, "' has ", size,
                   " items for ", items, " completions");
  }
  std::vector<Score> scores(items);
  const size_t parts = processes_.size();
  const auto range = [&](size_t p) {
    return std::pair(items * p / parts, items * (p + 1) / parts);
  };
  const auto mark = [&](size_t p, const std::string& reason) {
    const auto [begin, end] = range(p);
    for (size_t i = begin; i < end; ++i) scores[i] = {.fault = reason};
  };
  std::vector<uint8_t> asked(parts);
  for (size_t p = 0; p < parts; ++p) {
    const auto [begin, end] = range(p);
    if (begin == end) continue;
    Map call{{"prompts", part(prompts, begin, end)},
             {"completions", part(completions, begin, end)}};
    Map chosen;
    for (const auto& [name, column] : columns.items) {
      chosen.set(name, part(column.list(name), begin, end));
    }
    call.set("columns", std::move(chosen));
    try {
      if (!processes_[p].started()) start(processes_[p]);
      processes_[p].push('C', wire::pack(call));
      processes_[p].flush();
      asked[p] = 1;
    } catch (const Error& error) {
      processes_[p].kill();
      mark(p, error.what());
    }
  }
  const auto end = host_deadline(options_.deadline);
  for (size_t p = 0; p < parts; ++p) {
    if (!asked[p]) continue;
    const auto [low, high] = range(p);
    try {
      const double left = std::chrono::duration<double>(end - HostProcess::Clock::now()).count();
      const std::string frame = processes_[p].answer(std::max(0.001, left));
      read_scores(std::string_view(frame).substr(1), std::span(scores).subspan(low, high - low));
    } catch (const HostGone& gone) {
      mark(p, gone.what());
    } catch (const Error& error) {
      mark(p, error.what());
    } catch (...) {  // the caller gives up: what is under way must not be taken for another's
      for (HostProcess& process : processes_) process.kill();
      throw;
    }
  }
  return scores;
}

std::vector<Score> RewardHost::score(const std::vector<std::string>& prompts,
                                     const std::vector<std::string>& completions,
                                     const Map& columns) {
  return score(texts(prompts), texts(completions), columns);
}

}  // namespace bessemer

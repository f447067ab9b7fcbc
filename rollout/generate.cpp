#include "rollout/generate.h"

#include <algorithm>
#include <cmath>

#include "rollout/generate_state.h"

namespace bessemer {

using Finish = Completion::Finish;

std::string_view finish_name(Finish finish) {
  switch (finish) {
    case Finish::stop:
      return "stop";
    case Finish::stop_string:
      return "stop_string";
    case Finish::length:
      return "length";
    case Finish::context:
      return "context";
    case Finish::prompt_too_long:
      return "prompt_too_long";
    case Finish::out_of_pages:
      return "out_of_pages";
  }
  return "";
}

Tensor inverse_temperature(double temperature) {
  if (temperature == 0 || temperature == 1) return Tensor();
  return Tensor::scalar(1.0f / static_cast<float>(temperature));
}

namespace {

int64_t pages_of(const nn::DecoderConfig& config, const GeneratorOptions& options) {
  BESSEMER_CHECK(
      options.max_batch > 0 && options.step_tokens > 0 && options.pages >= 0, ValueError,
      "[generate] max_batch and step_tokens must be positive and pages not negative, got ",
      options.max_batch, ", ", options.step_tokens, ", ", options.pages);
  if (options.pages > 0) return options.pages;
  const int64_t context = (config.max_position_embeddings + kPageTokens - 1) / kPageTokens;
  return context * (options.max_batch + 1);  // one prompt more, that waits for places
}

}  // namespace

Generator::Generator(const nn::Decoder& decoder, const GeneratorOptions& options)
    : decoder_(decoder),
      options_(options),
      cache_(decoder.config(), pages_of(decoder.config(), options)),
      weights_(decoder.parameters()) {}
Generator::~Generator() = default;

void Generator::check(const SamplingOptions& s) const {
  BESSEMER_CHECK(std::isfinite(s.temperature) && s.temperature >= 0, ValueError,
                 "[generate] temperature must be 0 or more, got ", s.temperature);
  BESSEMER_CHECK(s.top_k >= 0, ValueError, "[generate] top_k must be 0 or more, got ", s.top_k);
  BESSEMER_CHECK(s.top_p > 0 && s.top_p <= 1, ValueError,
                 "[generate] top_p must be above 0 and at most 1, got ", s.top_p);
  BESSEMER_CHECK(s.max_tokens > 0, ValueError, "[generate] max_tokens must be positive, got ",
                 s.max_tokens);
  for (const std::string& stop : s.stop)
    BESSEMER_CHECK(!stop.empty(), ValueError, "[generate] a stop string is empty");
  BESSEMER_CHECK(s.stop.empty() || options_.token_bytes, ValueError,
                 "[generate] stop strings need GeneratorOptions::token_bytes");
}

void Generator::check(const Prompt& prompt) const {
  check_tokens(prompt.tokens);
  BESSEMER_CHECK(!prompt.tokens.empty(), ValueError,
                 "[generate] a prompt without tokens has nothing to continue");
  BESSEMER_CHECK(prompt.completions > 0, ValueError,
                 "[generate] completions must be positive, got ", prompt.completions);
}

void Generator::check_tokens(std::span<const int32_t> tokens) const {
  for (const int32_t token : tokens)
    BESSEMER_CHECK(token >= 0 && token < decoder_.config().vocab_size, IndexError,
                   "[generate] token ", token, " is beyond the vocabulary of ",
                   decoder_.config().vocab_size);
}

int64_t Generator::add(const Prompt& prompt, const SamplingOptions& sampling, bool keep) {
  check(sampling);
  check(prompt);
  const int64_t handle = next_handle_;
  const auto shared = std::make_shared<const SamplingOptions>(sampling);
  const int64_t together = options_.share_prompts ? prompt.completions : 1;
  const bool fits =
      static_cast<int64_t>(prompt.tokens.size()) < decoder_.config().max_position_embeddings;
  for (int64_t first = 0; first < prompt.completions; first += together) {
    auto group = std::make_unique<Group>();
    group->handle = next_handle_;
    group->prompt = prompt.tokens;
    group->sequences.resize(static_cast<size_t>(together));
    for (Sequence& s : group->sequences) {
      s.group = group.get();
      s.handle = next_handle_++;
      s.sampling = shared;
      s.keep = keep;
      s.draw = prompt.draw;
      s.out.sequence = prompt.sequence + static_cast<uint64_t>(s.handle - handle);
      s.out.group = prompt.group;
      if (!fits) finish(s, Finish::prompt_too_long);
    }
    groups_.push_back(std::move(group));
  }
  return handle;
}

Generator::Sequence& Generator::find(int64_t handle, const char* verb) {
  auto at = std::upper_bound(groups_.begin(), groups_.end(), handle,
                             [](int64_t h, const auto& group) { return h < group->handle; });
  if (at != groups_.begin()) {
    Group& group = **--at;
    const int64_t i = handle - group.handle;
    if (i < static_cast<int64_t>(group.sequences.size())) {
      Sequence& s = group.sequences[static_cast<size_t>(i)];
      if (s.state != Sequence::State::done) return s;
    }
  }
  fail<ValueError>("[generate] no sequence ", handle, " to ", verb,
                   "; one that is not kept is gone once it has finished");
}

void Generator::extend(int64_t handle, std::span<const int32_t> tokens,
                       const SamplingOptions& sampling) {
  check(sampling);
  check_tokens(tokens);
  Sequence& s = find(handle, "extend");
  BESSEMER_CHECK(s.state == Sequence::State::parked, ValueError, "[generate] sequence ", handle,
                 " has not finished its turn");
  s.tail.insert(s.tail.end(), tokens.begin(), tokens.end());
  s.sampling = std::make_shared<const SamplingOptions>(sampling);
  Completion next;
  next.sequence = s.out.sequence;
  next.group = s.out.group;
  s.out = std::move(next);
  s.utf8 = Utf8Decoder();
  s.state = Sequence::State::waiting;
  if (s.length() >= decoder_.config().max_position_embeddings) finish(s, Finish::context);
}

void Generator::release(int64_t handle) {
  Sequence& s = find(handle, "release");
  drop(s);
  s.state = Sequence::State::done;
  collect();
}

void Generator::forget_from(int64_t first) {
  for (auto& group : groups_) {
    for (Sequence& s : group->sequences) {
      if (s.handle < first) continue;
      drop(s);
      s.state = Sequence::State::done;
    }
  }
  std::erase_if(finished_, [&](const Finished& f) { return f.handle >= first; });
  collect();
}

/// Forgets groups of which nothing is left.
void Generator::collect() {
  std::erase_if(groups_, [&](const auto& group) {
    if (!group->done()) return false;
    group->drop(cache_);
    return true;
  });
}

std::vector<Generator::Finished> Generator::take() {
  std::sort(finished_.begin(), finished_.end(),
            [](const Finished& a, const Finished& b) { return a.handle < b.handle; });
  return std::exchange(finished_, {});
}

std::vector<Completion> Generator::generate(std::span<const Prompt> prompts,
                                            const SamplingOptions& sampling) {
  check(sampling);
  for (const Prompt& prompt : prompts) check(prompt);
  const int64_t first = next_handle_;
  try {
    for (const Prompt& prompt : prompts) add(prompt, sampling);
    while (step()) {
    }
  } catch (...) {  // what was added here must not go on in the next call
    forget_from(first);
    throw;
  }
  std::vector<Completion> out(static_cast<size_t>(next_handle_ - first));
  std::erase_if(finished_, [&](Finished& f) {
    if (f.handle < first) return false;
    out[static_cast<size_t>(f.handle - first)] = std::move(f.completion);
    return true;
  });
  return out;
}

void Generator::finish(Sequence& s, Finish why) {
  if (s.state == Sequence::State::active) --active_;
  const SamplingOptions& sampling = *s.sampling;
  s.out.finish = why;
  s.out.truncated_sampling = sampling.top_k > 0 || sampling.top_p < 1 || sampling.temperature == 0;
  s.out.weight_version = s.out.version.empty() ? version_ : s.out.version.back();
  if (options_.token_bytes && why != Finish::stop_string) s.out.text += s.utf8.finish();
  s.state = s.keep ? Sequence::State::parked : Sequence::State::done;
  if (!s.keep) s.cached.clear(cache_);
  finished_.push_back({s.handle, s.out});
}

/// A sampled token: the sequence goes on, or has finished.
void Generator::accept(Sequence& s, int32_t token, float log_prob) {
  const SamplingOptions& sampling = *s.sampling;
  Completion& out = s.out;
  s.tail.push_back(token);
  ++s.draw;
  ++counts_.sampled;
  out.tokens.push_back(token);
  out.log_prob.push_back(log_prob);
  out.version.push_back(version_);
  if (std::ranges::find(sampling.stop_ids, token) != sampling.stop_ids.end())
    return finish(s, Finish::stop);
  if (options_.token_bytes) {
    const size_t before = out.text.size();
    out.text += s.utf8.push(options_.token_bytes(token));
    size_t cut = std::string::npos;
    for (const std::string& stop : sampling.stop) {
      const size_t from = before >= stop.size() ? before - (stop.size() - 1) : 0;
      cut = std::min(cut, out.text.find(stop, from));
    }
    if (cut != std::string::npos) {
      out.text.resize(cut);
      return finish(s, Finish::stop_string);
    }
  }
  if (static_cast<int64_t>(out.tokens.size()) >= sampling.max_tokens)
    return finish(s, Finish::length);
  if (s.length() >= decoder_.config().max_position_embeddings) return finish(s, Finish::context);
}

}  // namespace bessemer

#include "rollout/token_samples.h"

#include <algorithm>

namespace bessemer {

namespace {
constexpr int64_t kTexts = 4;
}

void TokenSamples::check() const {
  const auto rises = [](std::string_view name, const std::vector<int64_t>& at) {
    BESSEMER_CHECK(!at.empty() && at[0] == 0 && std::ranges::is_sorted(at), ValueError,
                   "[tokens] '", name, "' do not rise from 0");
  };
  rises("offsets", offsets);
  rises("text.offsets", text_offsets);
  const auto length = [](std::string_view name, size_t found, int64_t wanted) {
    BESSEMER_CHECK(static_cast<int64_t>(found) == wanted, ValueError, "[tokens] '", name, "' has ",
                   found, " entries, expected ", wanted);
  };
  const int64_t n = sequences();
  length("tokens", tokens.size(), size());
  length("author", author.size(), size());
  length("trained", trained.size(), size());
  length("log_prob", log_prob.size(), size());
  length("version", version.size(), size());
  length("sequence", sequence.size(), n);
  length("prompt", prompt.size(), n);
  length("finish", finish.size(), n);
  length("turns", turns.size(), n);
  length("reward", reward.size(), n);
  int64_t all_turns = 0;
  for (const int64_t count : turns) {
    BESSEMER_CHECK(count >= 0 && count <= static_cast<int64_t>(turn_end.size()), ValueError,
                   "[tokens] a sequence of ", count, " turns");
    all_turns += count;
  }
  length("turn_end", turn_end.size(), all_turns);
  length("turn_reward", turn_reward.size(), all_turns);
  length("text.offsets", text_offsets.size(), kTexts * n + 1);
  length("text.bytes", text.size(), text_offsets.back());
  BESSEMER_CHECK(n == 0 ? rewards.empty() : static_cast<int64_t>(rewards.size()) % n == 0,
                 ValueError, "[tokens] 'rewards' has ", rewards.size(), " entries for ", n,
                 " sequences");
  const auto below = [](std::string_view name, const std::vector<uint8_t>& column, uint8_t bound) {
    BESSEMER_CHECK(std::ranges::all_of(column, [&](uint8_t x) { return x < bound; }), ValueError,
                   "[tokens] '", name, "' must be below ", int{bound});
  };
  below("author", author, 3);
  below("trained", trained, 2);
  below("finish", finish, 16);
  // What is sampled follows a prompt, and the turns divide it: losses index by both.
  int64_t turn = 0;
  for (size_t s = 0; s < prompt.size(); ++s) {
    const int64_t begin = offsets[s], end = offsets[s + 1];
    BESSEMER_CHECK(prompt[s] >= 0 && prompt[s] <= end - begin, ValueError, "[tokens] 'prompt' is ",
                   prompt[s], " in a sequence of ", end - begin);
    const auto first = trained.begin() + begin, middle = first + prompt[s];
    BESSEMER_CHECK(std::find(first, middle, 1) == middle, ValueError,
                   "[tokens] 'trained' marks tokens of a prompt");
    const int64_t sampled = std::count(middle, trained.begin() + end, 1);
    BESSEMER_CHECK(prompt[s] > 0 || sampled == 0, ValueError,
                   "[tokens] a sequence has no prompt to follow");
    int64_t reached = 0;
    for (const int64_t last = turn + turns[s]; turn < last; ++turn) {
      const int64_t to = turn_end[static_cast<size_t>(turn)];
      BESSEMER_CHECK(to >= reached, ValueError, "[tokens] 'turn_end' do not rise");
      reached = to;
    }
    BESSEMER_CHECK(reached == sampled, ValueError, "[tokens] 'turn_end' reach ", reached, " of ",
                   sampled, " sampled tokens");
  }
}

TokenSamples token_samples(std::span<const Episode> episodes) {
  TokenSamples out;
  size_t components = 0;
  for (const Episode& e : episodes) components = std::max(components, e.components.size());
  const auto add = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (const Episode& e : episodes) {
    add(out.tokens, e.prompt);
    add(out.tokens, e.continuation.tokens);
    for (const Author author : e.author) out.author.push_back(static_cast<uint8_t>(author));
    out.trained.resize(out.trained.size() + e.prompt.size());
    size_t sampled = 0;
    add(out.trained, e.continuation.trained);
    for (size_t i = out.log_prob.size(); i < out.trained.size(); ++i) {
      out.log_prob.push_back(out.trained[i] ? e.log_prob[sampled] : 0.0f);
      out.version.push_back(out.trained[i] ? static_cast<int64_t>(e.version[sampled]) : 0);
      sampled += out.trained[i];
    }
    out.offsets.push_back(static_cast<int64_t>(out.tokens.size()));
    out.sequence.push_back(e.sequence);
    out.prompt.push_back(static_cast<int64_t>(e.prompt.size()));
    out.finish.push_back(static_cast<uint8_t>(
        (e.ended ? TokenSamples::kEnded : 0) | (e.cut ? TokenSamples::kCut : 0) |
        (e.off_policy ? TokenSamples::kOffPolicy : 0) |
        (e.components.empty() ? 0 : TokenSamples::kRewarded)));
    out.turns.push_back(e.turns);
    add(out.turn_end, e.turn_end);
    add(out.turn_reward, e.turn_reward);
    out.reward.push_back(e.reward);
    add(out.rewards, e.components);
    out.rewards.resize(out.finish.size() * components);
    for (const std::string* text : {&e.question, &e.answer, &e.oracle, &e.fault}) {
      add(out.text, *text);
      out.text_offsets.push_back(static_cast<int64_t>(out.text.size()));
    }
  }
  return out;
}

std::vector<Episode> episodes_of(const TokenSamples& samples) {
  std::vector<Episode> out(static_cast<size_t>(samples.sequences()));
  const size_t components = out.empty() ? 0 : samples.rewards.size() / out.size();
  int64_t turn = 0;  // of all
  for (size_t s = 0; s < out.size(); ++s) {
    Episode& e = out[s];
    const auto begin = samples.offsets[s], middle = begin + samples.prompt[s],
               end = samples.offsets[s + 1];
    const auto cut = [](const auto& from, int64_t first, int64_t last, auto& to) {
      to.assign(from.begin() + first, from.begin() + last);
    };
    cut(samples.tokens, begin, middle, e.prompt);
    cut(samples.tokens, middle, end, e.continuation.tokens);
    cut(samples.trained, middle, end, e.continuation.trained);
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      e.author.push_back(static_cast<Author>(samples.author[i]));
      if (!samples.trained[i]) continue;
      e.log_prob.push_back(samples.log_prob[i]);
      e.version.push_back(static_cast<uint64_t>(samples.version[i]));
    }
    e.sequence = samples.sequence[s];
    e.ended = samples.finish[s] & TokenSamples::kEnded;
    e.cut = samples.finish[s] & TokenSamples::kCut;
    e.off_policy = samples.finish[s] & TokenSamples::kOffPolicy;
    e.turns = samples.turns[s];
    cut(samples.turn_end, turn, turn + e.turns, e.turn_end);
    cut(samples.turn_reward, turn, turn + e.turns, e.turn_reward);
    turn += e.turns;
    e.reward = samples.reward[s];
    if (samples.finish[s] & TokenSamples::kRewarded)
      cut(samples.rewards, static_cast<int64_t>(s * components),
          static_cast<int64_t>((s + 1) * components), e.components);
    std::string* texts[kTexts] = {&e.question, &e.answer, &e.oracle, &e.fault};
    for (size_t t = 0; t < kTexts; ++t) {
      const size_t at = s * kTexts + t;
      cut(samples.text, samples.text_offsets[at], samples.text_offsets[at + 1], *texts[t]);
    }
  }
  return out;
}

}  // namespace bessemer

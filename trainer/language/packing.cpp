#include "trainer/language/packing.h"

#include <algorithm>

#include "core/base/error.h"

namespace bessemer {

namespace {

/// Tokens of a continuation that a pass needs: up to the last trained one, which is only predicted;
/// all of them for whole texts.
int64_t needed(const Continuation& c, bool whole) {
  auto end = static_cast<int64_t>(c.tokens.size());
  if (whole) return end;
  while (end > 0 && !c.trained[static_cast<size_t>(end - 1)]) --end;
  return std::max<int64_t>(end - 1, 0);
}

void open_segment(Pack& pack, int64_t prefix) {
  pack.segments.push_back(static_cast<int64_t>(pack.tokens.size()));
  pack.segments.push_back(prefix);
}

/// The trained tokens of a continuation whose first token lies in row `first` and follows row
/// `before` (-1: it is the first of its text).
void add_targets(Pack& pack, const Continuation& c, int64_t first, int64_t before) {
  for (size_t i = 0; i < c.tokens.size(); ++i) {
    const int64_t row = i == 0 ? before : first + static_cast<int64_t>(i) - 1;
    if (!c.trained[i] || row < 0) continue;
    pack.rows.push_back(row);
    pack.targets.push_back(c.tokens[i]);
  }
  pack.offsets.push_back(static_cast<int64_t>(pack.rows.size()));
}

void add_text(Pack& pack, const Text& text, size_t first, size_t count, bool whole) {
  const bool shared = count > 1 && !text.prompt.empty();
  const auto put = [&](const std::vector<int32_t>& tokens, int64_t n) {
    pack.tokens.insert(pack.tokens.end(), tokens.begin(), tokens.begin() + n);
  };
  int64_t prefix = -1, prompt_end = -1;
  const auto prompt_size = static_cast<int64_t>(text.prompt.size());
  if (shared) {
    prefix = static_cast<int64_t>(pack.segments.size() / 2);
    open_segment(pack, -1);
    put(text.prompt, prompt_size);
    prompt_end = static_cast<int64_t>(pack.tokens.size()) - 1;
  }
  for (size_t i = first; i < first + count; ++i) {
    const Continuation& c = text.continuations[i];
    const int64_t own = needed(c, whole);
    int64_t before = prompt_end;
    if (!shared && prompt_size + own > 0) {
      open_segment(pack, -1);
      put(text.prompt, prompt_size);
      before = prompt_size > 0 ? static_cast<int64_t>(pack.tokens.size()) - 1 : -1;
    } else if (shared && own > 0) {
      open_segment(pack, prefix);
    }
    const auto begin = static_cast<int64_t>(pack.tokens.size());
    put(c.tokens, own);
    add_targets(pack, c, begin, before);
    pack.last.push_back(own > 0 ? begin + own - 1 : before);
  }
}

int64_t size_of(const Text& text, size_t first, size_t count, bool whole) {
  int64_t size = static_cast<int64_t>(text.prompt.size());
  for (size_t i = first; i < first + count; ++i) size += needed(text.continuations[i], whole);
  return size;
}

}  // namespace

int64_t text_tokens(const Text& text) {
  size_t longest = 0;
  for (const Continuation& c : text.continuations) longest = std::max(longest, c.tokens.size());
  return static_cast<int64_t>(text.prompt.size() + longest);
}

int64_t trained_tokens(const Text& text) {
  int64_t count = 0;
  for (const Continuation& c : text.continuations)
    for (size_t i = 0; i < c.tokens.size(); ++i)
      count += c.trained[i] && (i > 0 || !text.prompt.empty());
  return count;
}

std::vector<Pack> pack_texts(std::span<const Text> texts, const PackOptions& options) {
  std::vector<Pack> packs;
  for (const Text& text : texts) {
    for (const Continuation& c : text.continuations)
      BESSEMER_CHECK(c.tokens.size() == c.trained.size(), ValueError,
                     "[pack_texts] a mask has one entry a token");
    size_t first = 0;
    while (first < text.continuations.size()) {
      const int64_t used = packs.empty() ? 0 : static_cast<int64_t>(packs.back().tokens.size());
      size_t count = text.continuations.size() - first;
      // Whole groups where they fit in what is left or in a new pass, else as many as fit.
      while (options.divide && count > 1 &&
             size_of(text, first, count, options.whole) > options.max_tokens)
        --count;
      const int64_t size = size_of(text, first, count, options.whole);
      if (packs.empty() || (used > 0 && used + size > options.max_tokens)) packs.emplace_back();
      add_text(packs.back(), text, first, count, options.whole);
      first += count;
    }
  }
  return packs;
}

Tensor index_tensor(std::span<const int64_t> values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())});
}

Tensor pack_hidden(const nn::Decoder& decoder, const Pack& pack) {
  const auto count = static_cast<int64_t>(pack.segments.size() / 2);
  const Tensor segments = Tensor::from(std::span<const int64_t>(pack.segments), {count, 2});
  return decoder.hidden(index_tensor(pack.tokens), nn::Packed{segments});
}

Tensor pack_rows(const Tensor& hidden, const Pack& pack) {
  return index_select(hidden, 0, index_tensor(pack.rows));
}

std::vector<float> text_log_probs(const nn::Decoder& decoder, std::span<const Pack> packs,
                                  double temperature) {
  const NoGrad no_grad;
  std::vector<float> out;
  for (const Pack& pack : packs) {
    if (pack.rows.empty()) continue;
    const Tensor x = pack_rows(pack_hidden(decoder, pack), pack);
    const auto [log_prob, entropy] = linear_cross_entropy(
        x, decoder.output_weight(), index_tensor(pack.targets), Tensor::scalar(1 / temperature));
    const auto values = log_prob.values<float>();
    out.insert(out.end(), values.begin(), values.end());
  }
  return out;
}

}  // namespace bessemer

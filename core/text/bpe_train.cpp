// Learning byte-pair merges: count pairs of adjacent symbols over the distinct words, merge the
// most frequent, update only the words that held it.
#include <algorithm>
#include <map>
#include <queue>
#include <unordered_set>

#include "core/text/pretokenizer.h"
#include "core/text/tokenizer.h"

namespace bessemer {

namespace {

struct Word {
  std::vector<int32_t> symbols;
  int64_t count;
};

using Pair = std::pair<int32_t, int32_t>;
struct PairHash {
  size_t operator()(const Pair& p) const {
    return std::hash<uint64_t>()(static_cast<uint64_t>(static_cast<uint32_t>(p.first)) << 32 |
                                 static_cast<uint32_t>(p.second));
  }
};
struct Candidate {
  int64_t count;
  Pair pair;
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;  // smaller ids first
  }
};

struct Pairs {
  std::unordered_map<Pair, int64_t, PairHash> count;
  std::unordered_map<Pair, std::unordered_set<int32_t>, PairHash> words;
  std::priority_queue<Candidate> queue;

  void add(const Pair& pair, int64_t amount, int32_t word) {
    count[pair] += amount;
    words[pair].insert(word);
  }
};

}  // namespace

Tokenizer Tokenizer::train(std::span<const std::string> texts, int64_t vocabulary,
                           std::span<const std::string> special) {
  const int64_t least = 256 + static_cast<int64_t>(special.size());
  BESSEMER_CHECK(vocabulary >= least, ValueError, "a vocabulary of ", vocabulary,
                 " does not hold the 256 bytes and ", special.size(), " special tokens");
  Tokenizer out = with_bytes();
  out.pretokenizer_ = std::make_unique<Pretokenizer>();
  out.pretokenizer_->add_split(kByteLevelPattern);

  std::map<std::string, int64_t, std::less<>> counts;  // ordered: the same words in the same order
  for (const std::string& text : texts)
    out.pretokenizer_->split(text, [&](std::string_view word) {
      if (auto known = counts.find(word); known != counts.end()) {
        ++known->second;
      } else {
        counts.emplace(word, 1);
      }
    });
  std::vector<Word> words;
  for (const auto& [text, count] : counts) {
    Word word{{}, count};
    for (const char c : text) word.symbols.push_back(static_cast<uint8_t>(c));
    words.push_back(std::move(word));
  }

  Pairs pairs;
  for (size_t w = 0; w < words.size(); ++w)
    for (size_t i = 0; i + 1 < words[w].symbols.size(); ++i)
      pairs.add({words[w].symbols[i], words[w].symbols[i + 1]}, words[w].count,
                static_cast<int32_t>(w));
  for (const auto& [pair, count] : pairs.count) pairs.queue.push({count, pair});

  const int64_t wanted = vocabulary - static_cast<int64_t>(special.size());
  while (out.size() < wanted && !pairs.queue.empty()) {
    const Candidate best = pairs.queue.top();
    pairs.queue.pop();
    const int64_t now = pairs.count[best.pair];
    if (now != best.count) {  // an old entry; its present count goes back in
      if (now > 0) pairs.queue.push({now, best.pair});
      continue;
    }
    if (now < 2) break;
    const auto [left, right] = best.pair;
    const auto result = static_cast<int32_t>(out.bytes_.size());
    out.bytes_.push_back(out.bytes_[static_cast<size_t>(left)] +
                         out.bytes_[static_cast<size_t>(right)]);
    out.special_flag_.push_back(0);
    out.add_merge(left, right, result);

    std::unordered_set<Pair, PairHash> touched;
    const std::unordered_set<int32_t> holders = std::move(pairs.words[best.pair]);
    for (const int32_t w : holders) {
      Word& word = words[static_cast<size_t>(w)];
      std::vector<int32_t>& s = word.symbols;
      for (size_t i = 0; i + 1 < s.size(); ++i) pairs.count[{s[i], s[i + 1]}] -= word.count;
      size_t to = 0;
      for (size_t i = 0; i < s.size();) {
        if (i + 1 < s.size() && s[i] == left && s[i + 1] == right) {
          s[to++] = result;
          i += 2;
        } else {
          s[to++] = s[i++];
        }
      }
      s.resize(to);
      for (size_t i = 0; i + 1 < s.size(); ++i) {
        const Pair pair{s[i], s[i + 1]};
        pairs.add(pair, word.count, w);
        if (pair.first == result || pair.second == result) touched.insert(pair);
      }
    }
    pairs.count.erase(best.pair);
    for (const Pair& pair : touched) pairs.queue.push({pairs.count[pair], pair});
  }

  for (const std::string& name : special) {
    BESSEMER_CHECK(!name.empty() && !out.special_.contains(name), ValueError, "the special token '",
                   name, "' is empty or named twice");
    out.special_.emplace(name, static_cast<int32_t>(out.bytes_.size()));
    out.bytes_.push_back(name);
    out.special_flag_.push_back(1);
  }
  return out;
}

}  // namespace bessemer

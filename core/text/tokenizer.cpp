#include "core/text/tokenizer.h"

#include <algorithm>

#include "core/text/pretokenizer.h"

namespace bessemer {

namespace {
uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}
}  // namespace

Tokenizer::Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::with_bytes() {
  Tokenizer out;
  for (int b = 0; b < 256; ++b) {
    out.bytes_.push_back(std::string(1, static_cast<char>(b)));
    out.byte_id_.push_back(b);
  }
  out.special_flag_.assign(256, 0);
  return out;
}

Tokenizer Tokenizer::bytes(std::span<const std::string> special) {
  return train({}, 256 + static_cast<int64_t>(special.size()), special);
}

void Tokenizer::add_merge(int32_t left, int32_t right, int32_t result) {
  merge_rank_.emplace(pair_key(left, right), static_cast<int32_t>(merges_.size()));
  merges_.push_back({left, right, result});
}

void Tokenizer::merge_word(std::string_view word, std::vector<int32_t>& ids) const {
  const size_t begin = ids.size();
  for (const char c : word) ids.push_back(byte_id_[static_cast<uint8_t>(c)]);
  if (merges_.empty()) return;
  // The lowest rank first, the leftmost among equals; words are short, so a scan beats a heap.
  for (;;) {
    int32_t best = static_cast<int32_t>(merges_.size());
    for (size_t i = begin; i + 1 < ids.size(); ++i) {
      const auto known = merge_rank_.find(pair_key(ids[i], ids[i + 1]));
      if (known != merge_rank_.end()) best = std::min(best, known->second);
    }
    if (best == static_cast<int32_t>(merges_.size())) return;
    const Merge& merge = merges_[static_cast<size_t>(best)];
    size_t to = begin;
    for (size_t i = begin; i < ids.size();) {
      if (i + 1 < ids.size() && ids[i] == merge.left && ids[i + 1] == merge.right) {
        ids[to++] = merge.result;
        i += 2;
      } else {
        ids[to++] = ids[i++];
      }
    }
    ids.resize(to);
  }
}

void Tokenizer::encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
  if (pretokenizer_) {
    pretokenizer_->split(text, [&](std::string_view word) { merge_word(word, ids); });
  } else {
    merge_word(text, ids);
  }
}

void Tokenizer::encode(std::string_view text, std::vector<int32_t>& ids, bool special) const {
  size_t done = 0;
  if (special && !special_.empty()) {
    for (size_t i = 0; i < text.size();) {
      // The longest special token that begins here.
      const std::pair<const std::string, int32_t>* found = nullptr;
      for (const auto& entry : special_)
        if (text.substr(i).starts_with(entry.first) &&
            (!found || entry.first.size() > found->first.size()))
          found = &entry;
      if (!found) {
        ++i;
        continue;
      }
      encode_plain(text.substr(done, i - done), ids);
      ids.push_back(found->second);
      done = i += found->first.size();
    }
  }
  encode_plain(text.substr(done), ids);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool special) const {
  std::vector<int32_t> ids;
  encode(text, ids, special);
  return ids;
}

std::string_view Tokenizer::token(int32_t id) const {
  BESSEMER_CHECK(id >= 0 && id < size(), IndexError, "token ", id, " is beyond the vocabulary of ",
                 size());
  return bytes_[static_cast<size_t>(id)];
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  for (const int32_t id : ids) {
    const std::string_view piece = token(id);
    if (!skip_special || !is_special(id)) out += piece;
  }
  return out;
}

bool Tokenizer::is_special(int32_t id) const {
  token(id);  // checks the range
  return special_flag_[static_cast<size_t>(id)] != 0;
}

std::vector<std::string> Tokenizer::special_names() const {
  std::vector<std::pair<int32_t, std::string>> order;
  for (const auto& [name, id] : special_) order.emplace_back(id, name);
  std::sort(order.begin(), order.end());
  std::vector<std::string> out;
  for (auto& [id, name] : order) out.push_back(std::move(name));
  return out;
}

int32_t Tokenizer::special(std::string_view name) const {
  const auto found = special_.find(std::string(name));
  if (found == special_.end())
    fail<ValueError>("no special token '", name, "'", did_you_mean(name, special_names()));
  return found->second;
}

uint64_t Tokenizer::hash() const {
  uint64_t h = 0xcbf29ce484222325ull;  // FNV-1a over everything that decides an id
  const auto mix = [&](std::string_view text) {
    for (const char c : text) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
    h = (h ^ 0xff) * 0x100000001b3ull;
  };
  for (size_t i = 0; i < bytes_.size(); ++i) {
    mix(bytes_[i]);
    h = (h ^ special_flag_[i]) * 0x100000001b3ull;
  }
  for (const Merge& m : merges_) mix(cat(m.left, ' ', m.right, ' ', m.result));
  if (pretokenizer_)
    for (const std::string& pattern : pretokenizer_->patterns()) mix(pattern);
  return h;
}

}  // namespace bessemer

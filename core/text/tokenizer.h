// Text to token ids and back: byte-level vocabularies, byte-level BPE and special tokens, in the
// format of the Hugging Face file tokenizer.json (a subset: BPE over bytes, with ByteLevel, Split
// and Digits). BPE: Sennrich et al. 2016; over bytes: Radford et al. 2019.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/base/error.h"

namespace bessemer {

class Pretokenizer;

class Tokenizer {
 public:
  /// Ids 0 to 255 are the bytes, the special tokens follow in order.
  static Tokenizer bytes(std::span<const std::string> special);

  /// Learns merges from `texts` until the vocabulary (bytes, merges, special tokens) has
  /// `vocabulary` entries or no pair occurs twice. Ties go to the pair with the smaller ids, so
  /// that a file depends on nothing but the text. Special tokens take the last ids.
  static Tokenizer train(std::span<const std::string> texts, int64_t vocabulary,
                         std::span<const std::string> special);

  /// Reads tokenizer.json. Throws ValueError naming the file and what is damaged or not supported.
  static Tokenizer load(const std::filesystem::path& file);
  static Tokenizer parse(std::string_view json, std::string_view name);
  /// Writes tokenizer.json; the `tokenizers` package reads it back exactly. Throws IoError.
  void save(const std::filesystem::path& file) const;
  std::string json() const;

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Any bytes, valid UTF-8 or not. Special tokens written out in the text become their ids unless
  /// `special` is false, as text from people and environments should.
  std::vector<int32_t> encode(std::string_view text, bool special = true) const;
  void encode(std::string_view text, std::vector<int32_t>& ids, bool special = true) const;
  /// The bytes of the tokens; IndexError for an id beyond the vocabulary. Special tokens are left
  /// out when `skip_special`.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  /// The bytes that a token stands for.
  std::string_view token(int32_t id) const;
  bool is_special(int32_t id) const;
  /// The id of a special token; ValueError with the nearest right name.
  int32_t special(std::string_view name) const;
  bool has_special(std::string_view name) const { return special_.contains(std::string(name)); }
  std::vector<std::string> special_names() const;
  /// Of the whole definition: equal hashes, equal ids for any text.
  uint64_t hash() const;

 private:
  Tokenizer();
  struct Merge {
    int32_t left, right, result;
  };
  void add_merge(int32_t left, int32_t right, int32_t result);
  void merge_word(std::string_view word, std::vector<int32_t>& ids) const;
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const;
  static Tokenizer with_bytes();
  static Tokenizer parse_checked(std::string_view json, std::string_view name);

  std::vector<std::string> bytes_;                    // by id
  std::vector<uint8_t> special_flag_;                 // by id
  std::vector<int32_t> byte_id_;                      // 256
  std::vector<Merge> merges_;                         // by rank
  std::unordered_map<uint64_t, int32_t> merge_rank_;  // left << 32 | right
  std::unordered_map<std::string, int32_t> special_;
  std::unique_ptr<Pretokenizer> pretokenizer_;  // null: a whole text is one word
};

}  // namespace bessemer

// The texts of a run in an order that depends on the seed and their number alone, so that a run
// goes on where it stopped: a file's in shuffled epochs, or new ones of the environment's oracle.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "trainer/config.h"
#include "trainer/language/dataset.h"

namespace bessemer {

class TextFeed {
 public:
  /// Texts of the items `first` ... first + count - 1, whatever was asked for before.
  using Make = std::function<std::vector<Text>(int64_t first, int64_t count)>;

  TextFeed() = default;
  explicit TextFeed(Make make) : make_(std::move(make)) {}
  TextFeed(Dataset data, uint64_t seed) : data_(std::move(data)), seed_(seed) {}

  std::vector<Text> take(int64_t first, int64_t count);
  const Dataset& data() const { return data_; }

 private:
  Make make_;
  Dataset data_;
  uint64_t seed_ = 0;
  int64_t epoch_ = -1;  // that `order_` is of
  std::vector<int64_t> order_;
};

/// The examples of data.file: a file of people's, or the completions of another run.
Dataset read_data(const RunConfig& config, const Tokenizer& tokenizer, DatasetOptions options);

/// Fisher-Yates with the draws of (seed, Stream::shuffle, index).
void shuffle_order(std::vector<int64_t>& order, uint64_t seed, int64_t index);

}  // namespace bessemer

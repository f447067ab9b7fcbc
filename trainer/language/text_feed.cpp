#include "trainer/language/text_feed.h"

#include <numeric>

#include "core/base/rng.h"
#include "trainer/language/model.h"

namespace bessemer {

std::vector<Text> TextFeed::take(int64_t first, int64_t count) {
  if (make_) return make_(first, count);
  const auto size = static_cast<int64_t>(data_.train.size());
  std::vector<Text> out;
  for (int64_t item = first; item < first + count; ++item) {
    if (item / size != epoch_) {
      epoch_ = item / size;
      order_.resize(data_.train.size());
      std::iota(order_.begin(), order_.end(), int64_t{0});
      shuffle_order(order_, seed_, epoch_);
    }
    out.push_back(data_.train[static_cast<size_t>(order_[static_cast<size_t>(item % size)])]);
  }
  return out;
}

Dataset read_data(const RunConfig& config, const Tokenizer& tokenizer, DatasetOptions options) {
  options.holdout = config.data.holdout;
  if (config.data.from.recipe) {  // its token ids mean something in its own vocabulary alone
    const std::filesystem::path run = std::filesystem::path(config.data.file).parent_path();
    const Tokenizer own = Tokenizer::load(weights_folder(run.string()) / "tokenizer.json");
    BESSEMER_CHECK(own.hash() == tokenizer.hash(), ValueError, "data.from: the completions of ",
                   run.string(), " are of another vocabulary than the run's model has");
  }
  return config.data.from.recipe ? load_completions(config.data.file, tokenizer, options)
                                 : load_dataset(config.data.file, tokenizer, options);
}

void shuffle_order(std::vector<int64_t>& order, uint64_t seed, int64_t index) {
  const Rng rng{seed, Stream::shuffle};
  PhiloxBlock block{};
  for (size_t i = order.size(); i > 1; --i) {
    const size_t draw = order.size() - i;
    if (draw % 4 == 0) block = rng.at(static_cast<uint64_t>(index), draw / 4);
    const uint64_t j = uint64_t{block.word[draw % 4]} * i >> 32;
    std::swap(order[i - 1], order[j]);
  }
}

}  // namespace bessemer

// Sorting-v0: write numbers in ascending order.
#include <algorithm>

#include "envs/text/task.h"

namespace bessemer {
namespace {

struct Sorting {
  using Action = std::string_view;

  static Spec spec() {
    return text_task::spec(
        "Sorting-v0", "Write numbers in ascending order.", {"exact", "places"},
        {text_task::integer("min_count", 3, 1, 64, "numbers at the least"),
         text_task::integer("max_count", 6, 1, 64, "numbers at the most"),
         text_task::integer("bound", 100, 2, 1000000, "numbers lie in 0 .. bound - 1")});
  }
  explicit Sorting(const Settings& options)
      : split_(options, "Sorting-v0"),
        fewest_(options.integer("min_count")),
        most_(options.integer("max_count")),
        bound_(options.integer("bound")) {
    text_task::check_order("Sorting-v0", fewest_, most_, "count");
  }

  void reset(Pcg64& rng, const Settings&) {
    split_.draw([&] {
      numbers_.resize(static_cast<size_t>(rng.integers(fewest_, most_ + 1)));
      for (int64_t& n : numbers_) n = rng.integers(0, bound_);
      return joined(numbers_);
    });
    exact_ = places_ = 0;
  }
  StepResult step(std::string_view reply, Pcg64&) {
    const std::string answer = oracle();
    reply = text_task::trimmed(reply);
    exact_ = reply == answer;
    // The share of places that hold the right number.
    int64_t right = 0, place = 0;
    const std::vector<int64_t> order = sorted();
    while (!reply.empty() && place < static_cast<int64_t>(order.size())) {
      const size_t end = std::min(reply.find(' '), reply.size());
      right += text_task::whole_number(reply.substr(0, end)) == order[static_cast<size_t>(place)];
      ++place;
      reply = reply.substr(std::min(end + 1, reply.size()));
    }
    places_ = static_cast<float>(right) / static_cast<float>(order.size());
    return {.reward = exact_, .terminated = true};
  }
  void observe(RowOut& out) const { out.text(0, "sort: " + joined(numbers_)); }
  void rewards(std::span<float> out) const {
    out[0] = exact_;
    out[1] = places_;
  }
  std::string oracle() const { return joined(sorted()); }
  void state(StateIo& io) { io(numbers_, exact_, places_); }

 private:
  static std::string joined(const std::vector<int64_t>& numbers) {
    std::string out;
    for (const int64_t n : numbers) {
      if (!out.empty()) out += ' ';
      out += std::to_string(n);
    }
    return out;
  }
  std::vector<int64_t> sorted() const {
    std::vector<int64_t> order = numbers_;
    std::sort(order.begin(), order.end());
    return order;
  }

  text_task::Split split_;
  int64_t fewest_, most_, bound_;
  std::vector<int64_t> numbers_;
  float exact_ = 0, places_ = 0;
};

}  // namespace

BESSEMER_ENVIRONMENT(Sorting)

}  // namespace bessemer

// Echo-v0: text in, text out. The environment shows a word, the agent is rewarded for repeating it.
// The smallest ragged environment: what text costs in a batch is tested and measured with it.
#include <algorithm>

#include "envs/batch.h"
#include "envs/render/canvas.h"

namespace bessemer {
namespace {

struct Echo {
  using Action = std::string_view;
  static constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz";
  static constexpr int64_t kLongest = 4096;

  static Spec spec() {
    Spec s;
    s.id = "Echo-v0";
    s.doc = "Repeat the word that is shown: reward 1 for an exact copy, else the part that agrees.";
    const Channel text{
        .kind = SpaceKind::text, .dtype = Dtype::u8, .ragged = true, .max_length = kLongest};
    s.observation = {text};
    s.observation[0].name = "text";
    s.action = {text};
    s.action[0].name = "reply";
    s.max_episode_steps = 8;
    s.reward_threshold = 8;
    s.render_fps = 2;
    s.options = {{.name = "min_length",
                  .type = Option::Type::integer,
                  .fallback = "1",
                  .min = 0,
                  .max = kLongest,
                  .doc = "bytes of the shortest word"},
                 {.name = "max_length",
                  .type = Option::Type::integer,
                  .fallback = "12",
                  .min = 0,
                  .max = kLongest,
                  .doc = "bytes of the longest word"}};
    return s;
  }

  explicit Echo(const Settings& options)
      : shortest_(options.integer("min_length")), longest_(options.integer("max_length")) {
    BESSEMER_CHECK(shortest_ <= longest_, ValueError, "[env] Echo-v0: min_length ", shortest_,
                   " is above max_length ", longest_);
  }

  void reset(Pcg64& rng, const Settings&) { draw_word(rng); }

  StepResult step(std::string_view reply, Pcg64& rng) {
    size_t same = 0;
    const size_t both = std::min(reply.size(), word_.size());
    for (size_t i = 0; i < both; ++i) same += reply[i] == word_[i];
    const size_t longer = std::max(reply.size(), word_.size());
    const double reward =
        longer == 0 ? 1.0 : static_cast<double>(same) / static_cast<double>(longer);
    draw_word(rng);
    return {.reward = reward};
  }

  void observe(RowOut& out) const { out.text(0, word_); }

  void state(StateIo& io) { io(word_); }

  void draw(Canvas& canvas) const {
    canvas.clear({250, 250, 252}, {228, 232, 240});
    const double width = canvas.text_width(word_, 24);
    canvas.text({(canvas.width() - width) / 2, canvas.height() / 2.0}, word_, 24, {40, 44, 60});
  }

 private:
  void draw_word(Pcg64& rng) {
    word_.resize(static_cast<size_t>(rng.integers(shortest_, longest_ + 1)));
    for (char& c : word_) c = kLetters[static_cast<size_t>(rng.integers(0, 26))];
  }

  int64_t shortest_, longest_;
  std::string word_;
};

}  // namespace

BESSEMER_ENVIRONMENT(Echo)

}  // namespace bessemer

// Where the conversations that a trainer learns from come from: this process, or workers
// (rollout/episode_hub.h). A round is what one submit() asked for. Draws and items are named in it,
// so that the episodes do not depend on who plays them.
#pragma once

#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "rollout/episodes.h"

namespace bessemer {

class EpisodeSource {
 public:
  virtual ~EpisodeSource() = default;
  /// What is submitted from now on is played with the decoder's weights as they are now.
  virtual void publish(int64_t version) = 0;
  virtual void submit(const PlayOptions& play) = 0;
  /// The oldest round that was not taken, its episodes in order. Throws what playing it threw, and
  /// IoError when nobody is left to play; the round stays the oldest then.
  virtual std::vector<Episode> take() = 0;
  /// Rounds that were not taken, oldest first, as a checkpoint keeps them. Waits for those that are
  /// still played; ends before the first that cannot be.
  virtual std::vector<std::vector<Episode>> ahead() = 0;
  /// These rounds are what take() gives next; others are forgotten.
  virtual void restore(std::vector<std::vector<Episode>> rounds) = 0;
};

/// In this process: a round is played when it is submitted, `play` uses the trainer's own decoder.
class InlineEpisodes final : public EpisodeSource {
 public:
  using Play = std::function<std::vector<Episode>(const PlayOptions&)>;
  explicit InlineEpisodes(Play play) : play_(std::move(play)) {}

  void publish(int64_t) override {}
  void submit(const PlayOptions& play) override { rounds_.push_back(play_(play)); }
  std::vector<Episode> take() override {
    std::vector<Episode> out = std::move(rounds_.front());
    rounds_.pop_front();
    return out;
  }
  std::vector<std::vector<Episode>> ahead() override { return {rounds_.begin(), rounds_.end()}; }
  void restore(std::vector<std::vector<Episode>> rounds) override {
    rounds_.assign(rounds.begin(), rounds.end());
  }

 private:
  Play play_;
  std::deque<std::vector<Episode>> rounds_;
};

}  // namespace bessemer

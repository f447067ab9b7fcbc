// Conversations with text environments: the environment speaks as the user, the model answers, turn
// by turn, until the episode ends. Only the model's tokens are trained.
#pragma once

#include <string>
#include <vector>

#include "core/text/chat.h"
#include "rollout/episode_envs.h"
#include "rollout/generate.h"

namespace bessemer {

struct Episode {
  std::vector<int32_t> prompt;     // up to the first answer
  Continuation continuation;       // up to the model's last token; trained: what the model said
  std::vector<float> log_prob;     // [trained tokens] as reported while sampling
  std::vector<uint64_t> version;   // [trained tokens] of the weights that sampled them
  std::vector<Author> author;      // [prompt and continuation] who wrote it
  uint64_t sequence = 0;           // key of its draws
  std::vector<int64_t> turn_end;   // [turns] trained tokens up to the end of each
  std::vector<float> turn_reward;  // [turns] of the environment
  double reward = 0;               // sum over the turns; not a number after a fault
  std::vector<float> components;   // the Spec's named rewards, of the last turn
  std::string question;            // the environment's first words
  std::string answer;              // the model's last ones
  std::string oracle;              // what would have been right at the first turn; "" if unknown
  int64_t turns = 0;
  bool ended = false;       // by the environment, or its limit of turns
  bool cut = false;         // the last answer has no end token
  bool off_policy = false;  // truncated sampling: log_prob is not the sampler's own
  std::string fault;        // why the episode could not be used; "" where it could
  int64_t length() const { return static_cast<int64_t>(log_prob.size()); }
};

struct PlayOptions {
  std::vector<uint64_t> seeds;  // of the items, one a group
  std::vector<Options> reset;   // reset options, one a group; may be empty
  int64_t size = 1;             // episodes of a group
  SamplingOptions sampling;
  uint64_t first_sequence = 0;  // key of the first episode's draws
};
/// Plays every group's episodes side by side; the result is in their order and depends neither on
/// threads nor on the size of batches.
std::vector<Episode> play_episodes(EpisodeEnvs& envs, Generator& generator,
                                   const Tokenizer& tokenizer, const PlayOptions& options);

/// The same items answered by the environment's oracle. ValueError where it has none, or where an
/// episode does not end in `limit` turns.
std::vector<std::vector<Turn>> oracle_conversations(EpisodeEnvs& envs,
                                                    std::span<const uint64_t> seeds);

}  // namespace bessemer

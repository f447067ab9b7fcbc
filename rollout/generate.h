// Generation: many sequences through one decoder, continuously batched over a paged key-value
// cache.
//
// Each step computes at most `step_tokens` rows: one for every sequence that decodes, the rest
// for prompts, in chunks. Sequences join and leave between steps. The prompt of a group is computed
// once and its pages are shared by the completions until they write to them.
//
// A sequence's tokens and log-probabilities depend on nothing but its prompt, its options, the
// weights, the seed and its key: token t of sequence s is drawn at Philox(seed, Stream::action, s,
// t), and every row of the forward pass has the same bits in any batch. So a sequence that lost its
// pages to an older one is computed again and goes on as if nothing had happened.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/nn/decoder.h"
#include "core/base/rng.h"
#include "rollout/kv_cache.h"

namespace bessemer {

struct SamplingOptions {
  double temperature = 1;  // 0: the most likely token
  int64_t top_k = 0;       // 0: all
  double top_p = 1;
  int64_t max_tokens = 64;
  std::vector<int32_t> stop_ids;  // end a completion and belong to it
  std::vector<std::string> stop;  // end a completion as soon as its text contains one
};

/// What linear_cross_entropy() is to be given so that a trainer's log-probabilities are those that
/// sampling at this temperature reports, bit for bit; undefined for 1 and for 0 (greedy).
Tensor inverse_temperature(double temperature);

struct Prompt {
  std::vector<int32_t> tokens;
  int64_t completions = 1;
  uint64_t sequence = 0;  // key of the first completion's draws; completion i has sequence + i
  int64_t group = 0;      // the caller's; comes back with each completion
  uint64_t draw = 0;      // index of the first draw, for a conversation that was begun elsewhere
};

struct Completion {
  enum class Finish : uint8_t {
    stop,             // one of stop_ids
    stop_string,      // one of stop
    length,           // max_tokens
    context,          // the decoder's context is full
    prompt_too_long,  // the prompt alone fills the context: no tokens
    out_of_pages,     // the cache cannot hold this sequence alone
  };
  std::vector<int32_t> tokens;    // sampled ones, the stop id with them
  std::vector<float> log_prob;    // log_softmax(logits / temperature) over the whole vocabulary,
                                  // before top-k and top-p; greedy: at temperature 1
  std::vector<uint64_t> version;  // of the weights that sampled each token
  std::string text;               // with GeneratorOptions::token_bytes: whole characters, without
                                  // the stop id's and from the stop string on
  Finish finish = Finish::length;
  bool truncated_sampling = false;  // top-k, top-p or greedy: log_prob is not the sampler's own
  uint64_t weight_version = 0;      // of the last token
  uint64_t sequence = 0;            // key of its draws
  int64_t group = 0;                // Prompt::group
};
std::string_view finish_name(Completion::Finish finish);

struct GeneratorOptions {
  int64_t max_batch = 64;     // sequences that decode side by side
  int64_t pages = 0;          // of kPageTokens tokens; 0: enough for max_batch whole contexts
  int64_t step_tokens = 512;  // rows of a forward pass at most
  uint64_t seed = 0;
  bool share_prompts = true;  // false: each completion computes its own (the bits are the same)
  /// The bytes of a token (Tokenizer::token), for stop strings and text.
  std::function<std::string_view(int32_t)> token_bytes;
};

struct GeneratorCounts {
  int64_t steps = 0;        // forward passes
  int64_t computed = 0;     // rows of them
  int64_t sampled = 0;      // tokens
  int64_t shared = 0;       // prompt tokens taken from a shared prompt instead of computed
  int64_t preempted = 0;    // sequences that lost their pages
  int64_t invalidated = 0;  // sequences whose cache was of other weights
};

class Generator {
 public:
  /// The decoder must outlive it. ValueError for options that make no sense.
  Generator(const nn::Decoder& decoder, const GeneratorOptions& options);
  ~Generator();
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  /// All completions, prompt by prompt: completions of prompt i follow those of prompt i - 1.
  std::vector<Completion> generate(std::span<const Prompt> prompts,
                                   const SamplingOptions& sampling);

  // --- by steps
  // -----------------------------------------------------------------------------------
  /// Queues a prompt; completion i has the handle that is returned + i. With `keep`, a finished
  /// sequence stays until it is released, so that it can be extended. ValueError for an empty
  /// prompt or options out of range, IndexError for a token beyond the vocabulary.
  int64_t add(const Prompt& prompt, const SamplingOptions& sampling, bool keep = false);
  /// One forward pass and one token for every sequence that has all others; false: nothing to do.
  bool step();
  struct Finished {
    int64_t handle;
    Completion completion;
  };
  /// What finished since the last call, in the order of handles.
  std::vector<Finished> take();
  /// Another turn of a kept, finished sequence: `tokens` (the environment's answer; may be empty)
  /// follow what is there, and a new completion follows them. The cache of earlier tokens is used.
  void extend(int64_t handle, std::span<const int32_t> tokens, const SamplingOptions& sampling);
  void release(int64_t handle);
  /// Drops all sequences from this handle on, finished or not: their caller failed.
  void forget_from(int64_t first);

  /// Names the decoder's weights in completions. Weights may change between steps: sequences in
  /// flight keep their tokens, log-probabilities and versions, and their cache is computed again
  /// with the new weights before their next token, so that this token's log-probability is what a
  /// forward pass over the whole sequence gives. A change is seen by the weights' version counters,
  /// whether it is announced here or not.
  void set_version(uint64_t version, uint64_t hash = 0);
  uint64_t version() const { return version_; }
  uint64_t weight_hash() const { return hash_; }

  const GeneratorCounts& counts() const { return counts_; }
  const KvCache& cache() const { return cache_; }

 private:
  struct Group;
  struct Sequence;
  struct Rows;

  void check(const SamplingOptions& sampling) const;
  void check(const Prompt& prompt) const;
  void check_tokens(std::span<const int32_t> tokens) const;
  Sequence& find(int64_t handle, const char* verb);
  void check_weights();
  void drop(Sequence& sequence);
  bool evict(const CachedTokens& asking, int64_t handle);
  bool grow(CachedTokens& cached, int64_t length, int64_t handle);
  bool alone(const CachedTokens& cached) const;
  void schedule(Rows& rows);
  void forward(Rows& rows);
  void join(Rows& rows);
  void sample(Rows& rows);
  void accept(Sequence& sequence, int32_t token, float log_prob);
  void finish(Sequence& sequence, Completion::Finish why);
  void collect();

  const nn::Decoder& decoder_;
  GeneratorOptions options_;
  KvCache cache_;
  std::vector<Tensor> weights_;
  uint64_t weights_seen_ = 0;
  uint64_t version_ = 0, hash_ = 0;
  int64_t next_handle_ = 0, active_ = 0;
  std::vector<std::unique_ptr<Group>> groups_;  // by handle
  std::vector<Finished> finished_;
  GeneratorCounts counts_;
};

}  // namespace bessemer

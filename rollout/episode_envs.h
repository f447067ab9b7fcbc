// Text environments that conversations are played with, kept from one play to the next: where they
// are Python's or a server's, making them takes longer than most plays.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "envs/env.h"

namespace bessemer {

/// A text environment: one ragged channel in, one out. ValueError names what is wrong.
void check_text_spec(const Spec& spec);

/// Environments side by side and the arrays they write to.
class EpisodeTable {
 public:
  EpisodeTable(const EnvFactory& make_envs, int64_t rows, ThreadPool* pool);

  /// Item seeds[i] for the `size` environments of group i, with reset options one a group or none.
  void reset(std::span<const uint64_t> seeds, std::span<const Options> reset_options, int64_t size);
  /// Answers of the environments `ids`; afterwards the arrays hold their rows, in the order of
  /// `ids`.
  void step(const Ragged& replies, std::vector<int64_t>& ids);

  std::unique_ptr<EnvBatch> envs;
  Ragged text;
  std::vector<float> reward;
  std::vector<uint8_t> terminated, truncated, fault;
  std::vector<std::vector<float>> components;  // [the Spec's rewards][rows]
  bool faulted = false;                        // some environment did since it was made

 private:
  StepBuffers out_;
};

/// One task's environments. What is taken and not given back, after an error, is made anew.
class EpisodeEnvs {
 public:
  EpisodeEnvs(EnvFactory make_envs, ThreadPool* pool);

  /// seeds.size() * size environments, reset as EpisodeTable::reset() says.
  std::unique_ptr<EpisodeTable> take(std::span<const uint64_t> seeds,
                                     std::span<const Options> reset_options, int64_t size);
  /// When all their episodes ended.
  void give(std::unique_ptr<EpisodeTable> table);

 private:
  static constexpr size_t kMost = 3;  // tables of different sizes

  EnvFactory make_envs_;
  ThreadPool* pool_;
  std::vector<std::unique_ptr<EpisodeTable>> kept_;  // latest last
};

}  // namespace bessemer

// Workers of language: each plays the conversations of a job for a hub (rollout/episode_hub.h) with
// a decoder of its own.
#pragma once

#include "core/text/tokenizer.h"
#include "envs/env.h"
#include "rollout/generate.h"
#include "rollout/task_worker.h"

namespace bessemer {

struct EpisodeWorkerParts {
  std::unique_ptr<ThreadPool> pool;  // that steps environments
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<nn::Decoder> decoder;
  EnvFactory make_envs;
  GeneratorOptions generator;
};

/// What run_tasks() wants.
std::unique_ptr<TaskWorker> episode_worker(EpisodeWorkerParts parts);

}  // namespace bessemer

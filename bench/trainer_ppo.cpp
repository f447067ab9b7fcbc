// PPO's training speed on CartPole, one thread, and time to solve it. Peers (bench/peers/ppo.py):
// SB3 at setting (a), rlox at both.
#include "bench/bench.h"
#include "bench/solve.h"

namespace bessemer::bench {
namespace {

/// (a) RL-Zoo's tuned setting with constant learning rate and clip range, as bench/peers/ppo.py.
RunConfig tuned(int64_t seed) {
  RunConfig config;
  config.seed = seed;
  config.env.id = "CartPole-v1";
  config.env.num = 8;
  config.rollout.steps = 32;
  config.trainer.batch_size = 256;
  config.trainer.epochs = 20;
  config.trainer.gamma = 0.98;
  config.trainer.gae_lambda = 0.8;
  config.trainer.lr = 1e-3;
  config.trainer.total_steps = 200'000;
  return config;
}

/// (b) 64 instances, minibatches of 1024, separate 64-64 tanh trunks.
RunConfig wide(int64_t seed) {
  RunConfig config;
  config.seed = seed;
  config.env.id = "CartPole-v1";
  config.env.num = 64;
  config.rollout.steps = 128;
  config.trainer.batch_size = 1024;
  config.trainer.epochs = 4;
  config.trainer.total_steps = 2'000'000;
  return config;
}

double steps_per_second(const RunConfig& config, int64_t steps) {
  ThreadPool pool(1);
  const std::unique_ptr<Algorithm> ppo = make_algorithm(config, pool);
  Metrics metrics;
  ppo->iterate(metrics);
  const int64_t before = ppo->steps();
  const double start = seconds_now();
  while (ppo->steps() < before + steps) ppo->iterate(metrics);
  return static_cast<double>(ppo->steps() - before) / (seconds_now() - start);
}

}  // namespace
}  // namespace bessemer::bench

int main(int argc, char** argv) {
  using namespace bessemer::bench;
  Report report(argc, argv);
  std::vector<double> a, b, seconds, steps;
  for (int repeat = 0; repeat < 5; ++repeat) {
    a.push_back(steps_per_second(tuned(1 + repeat), 50'000));
    b.push_back(steps_per_second(wide(1 + repeat), 500'000));
  }
  report.figure("PPO CartPole, 8 x 32, batch 256, 20 epochs", median(a), "steps/s");
  report.figure("PPO CartPole, 64 x 128, batch 1024, 4 epochs", median(b), "steps/s");
  for (int64_t seed = 0; seed < 10; ++seed) {
    const Solved solved = solve(tuned(seed), {.threshold = 475, .every = 5'000});
    seconds.push_back(solved.seconds);
    steps.push_back(static_cast<double>(solved.steps));
  }
  report.figure("PPO CartPole to 475, median of 10 seeds", median(seconds), "s");
  report.figure("PPO CartPole to 475, steps", median(steps), "steps");
}

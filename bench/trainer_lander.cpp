// LunarLander to 240 within a million steps, at configs/ppo_lunarlander.yaml's settings, on two
// threads; checked every 50,000 steps on 20 deterministic episodes. Peer: bench/peers/ppo.py.
#include "bench/bench.h"
#include "bench/solve.h"

int main(int argc, char** argv) {
  using namespace bessemer;
  using namespace bessemer::bench;
  Report report(argc, argv);
  RunConfig config;
  config.env.id = "LunarLander-v3";
  config.env.num = 16;
  config.env.normalize_reward = true;
  config.rollout.steps = 1024;
  config.trainer.batch_size = 64;
  config.trainer.epochs = 4;
  config.trainer.gamma = 0.999;
  config.trainer.gae_lambda = 0.98;
  config.trainer.ent_coef = 0.01;
  config.trainer.lr = 1e-3;
  config.trainer.lr_schedule = "linear";
  config.trainer.total_steps = 1'000'000;
  std::vector<double> seconds, steps;
  int reached = 0;
  for (config.seed = 0; config.seed < 5; ++config.seed) {
    const Solved solved = solve(config, {.threshold = 240, .every = 50'000, .threads = 2});
    reached += solved.reached;
    seconds.push_back(solved.seconds);
    steps.push_back(static_cast<double>(solved.steps));
  }
  report.figure("PPO LunarLander to 240 within 1 M steps, of 5 seeds", reached, "seeds");
  report.figure("PPO LunarLander to 240, median of 5 seeds", median(seconds), "s");
  report.figure("PPO LunarLander to 240, steps", median(steps), "steps");
}

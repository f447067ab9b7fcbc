"""PPO of Stable-Baselines3 and rlox: training steps a second; seconds and steps to a score.

usage: ppo.py [--peer sb3|rlox] [--work a|b|solve|lander] [--seed 0]
  a      CartPole, 8 instances x 32 steps, batch 256, 20 epochs (zoo settings, constant rates)
  b      CartPole, 64 instances x 128 steps, batch 1024, 4 epochs, separate 64-64 tanh trunks
  solve  settings a until 20 deterministic episodes average 475, checked every 5,000 steps
  lander LunarLander, zoo settings, until 240, checked every 50,000 steps
Evaluation time is not counted. One thread, environments in this process.
"""

import argparse
import time
import warnings

from figures import emit

warnings.filterwarnings("ignore")
A = dict(n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20, learning_rate=1e-3)
B = dict(n_steps=128, batch_size=1024, n_epochs=4)
LANDER = dict(n_steps=1024, batch_size=64, gae_lambda=0.98, gamma=0.999, n_epochs=4, ent_coef=0.01)


def sb3(work, seed):
    import gymnasium
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    torch.set_num_threads(1)
    name = "LunarLander-v3" if work == "lander" else "CartPole-v1"
    count, settings = {"b": (64, B), "lander": (16, LANDER)}.get(work, (8, A))
    bar, every = (240, 50_000) if work == "lander" else (475, 5_000)

    class Until(BaseCallback):
        excluded, score, due = 0.0, None, every

        def _on_rollout_start(self):
            if self.num_timesteps < self.due:
                return
            start = time.perf_counter()
            self.score = evaluate_policy(self.model, Monitor(gymnasium.make(name)), 20)[0]
            self.excluded += time.perf_counter() - start
            self.due = self.num_timesteps + every

        def _on_step(self):
            return self.score is None or self.score < bar

    solving = work in ("solve", "lander")
    until = Until() if solving else None
    model = PPO(
        "MlpPolicy", make_vec_env(name, count, seed=seed), seed=seed, device="cpu", **settings
    )
    budget = {"lander": 1_000_000, "solve": 200_000}.get(work, 50_000)
    start = time.perf_counter()
    model.learn(budget, callback=until)
    seconds = time.perf_counter() - start - (until.excluded if until else 0)
    if solving:
        emit(
            "sb3",
            f"ppo {work}",
            round(seconds, 3),
            "s",
            steps=model.num_timesteps,
            score=until.score,
        )
    else:
        emit("sb3", f"ppo {work}", round(model.num_timesteps / seconds), "steps/s")


def rlox(work, seed):
    import torch
    from rlox import Trainer

    torch.set_num_threads(1)
    settings = (
        dict(n_envs=64, n_steps=128, batch_size=1024)
        if work == "b"
        else dict(n_envs=8, ent_coef=0.0, **A)
    )
    trainer = Trainer("ppo", "CartPole-v1", config=settings, seed=seed)
    start = time.perf_counter()
    trainer.train(50_000)
    emit("rlox", f"ppo {work}", round(50_000 / (time.perf_counter() - start)), "steps/s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", default="sb3", choices=["sb3", "rlox"])
    parser.add_argument("--work", default="a", choices=["a", "b", "solve", "lander"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    globals()[args.peer](args.work, args.seed)


if __name__ == "__main__":
    main()

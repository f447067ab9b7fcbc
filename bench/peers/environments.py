"""Environment steps a second of EnvPool, Gymnasium and rlox, with a fixed batch of random actions.

usage: environments.py [--peer envpool|gymnasium|rlox] [--id ID] [--num N] [--threads T]
"""

import argparse
import warnings

import numpy as np
from figures import emit, steps_per_second

warnings.filterwarnings("ignore")


def fixed_actions(space, count):
    rng = np.random.default_rng(0)
    if hasattr(space, "n"):
        return rng.integers(0, space.n, count).astype(np.int32)
    return rng.uniform(space.low, space.high, (count, *space.shape)).astype(np.float32)


def envpool(name, count, threads):
    import envpool

    env = envpool.make_gymnasium(name, num_envs=count, num_threads=threads, seed=0)
    env.reset()
    actions = fixed_actions(env.action_space, count)
    return steps_per_second(lambda: env.step(actions), count)


def gymnasium(name, count, threads):
    import gymnasium

    if count > 1:
        env = gymnasium.make_vec(name, num_envs=count, vectorization_mode="sync")
        env.reset(seed=0)
        actions = fixed_actions(env.single_action_space, count)
        return steps_per_second(lambda: env.step(actions), count)
    env = gymnasium.make(name)
    env.reset(seed=0)
    action = fixed_actions(env.action_space, 1)[0]

    def step():
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    return steps_per_second(step, 1)


def rlox(name, count, threads):
    import rlox

    env = rlox.VecEnv(count)
    env.reset_all()
    actions = np.random.default_rng(0).integers(0, 2, count).tolist()
    return steps_per_second(lambda: env.step_all(actions), count)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", default="envpool", choices=["envpool", "gymnasium", "rlox"])
    parser.add_argument("--id", default="CartPole-v1")
    parser.add_argument("--num", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    value = globals()[args.peer](args.id, args.num, args.threads)
    emit(args.peer, f"{args.id} {args.num}", round(value), "steps/s", threads=args.threads)


if __name__ == "__main__":
    main()

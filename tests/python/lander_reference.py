"""LunarLander's cases, pilots and episode runner, and how the reference scores were recorded.

The pilots are the same law as tests/envs/lander_heuristic.h. Recording needs Gymnasium with Box2D
(`pip install "gymnasium[box2d]"`):

    python tests/python/lander_reference.py        # writes lander_reference.json beside this file
"""

import datetime
import json
import pathlib

import numpy as np

EPISODES = 1000
REFERENCE_SEED = 0  # episode i of the reference has seed i
FILE = pathlib.Path(__file__).with_suffix(".json")

# name: (environment, keyword arguments, pilot)
CASES = {
    "heuristic": ("LunarLander-v3", {}, "heuristic"),
    "heuristic, wind": ("LunarLander-v3", {"enable_wind": True}, "heuristic"),
    "heuristic, continuous": ("LunarLanderContinuous-v3", {}, "heuristic"),
    "random": ("LunarLander-v3", {}, "random"),
    "random, continuous, wind": ("LunarLanderContinuous-v3", {"enable_wind": True}, "random"),
}


def errors(obs):
    """Turn and climb errors of [n, 8] observations: a PD law towards the pad, as the C++ pilot."""
    x, y, vx, vy, angle, spin, left, right = np.asarray(obs, np.float64).T
    grounded = (left != 0) | (right != 0)
    turn = 0.5 * (np.clip(0.5 * x + vx, -0.4, 0.4) - angle) - spin
    climb = 0.5 * (0.55 * np.abs(x) - y) - 0.5 * vy
    return np.where(grounded, 0, turn), np.where(grounded, -0.5 * vy, climb)


def fly_by_law(obs, continuous):
    turn, climb = errors(obs)
    if continuous:
        throttles = np.stack([20 * climb - 1, -20 * turn], axis=1)
        return np.clip(throttles, -1, 1).astype(np.float32)
    side = np.where(turn < -0.05, 3, np.where(turn > 0.05, 1, 0))
    return np.where((climb > np.abs(turn)) & (climb > 0.05), 2, side).astype(np.int64)


def scores(make_vec, case, first_seed, episodes=EPISODES, width=250, per_env=1):
    """Returns and lengths of `episodes` episodes; `make_vec` is Gymnasium's or ours.

    Blocks of `width` environments, seeded in turn, play `per_env` episodes each. Every environment
    plays the same number, so that short episodes are not counted more often than long ones.
    """
    env_id, options, pilot = CASES[case]
    continuous = "Continuous" in env_id
    returns, lengths = [], []  # in the order of the seeds
    for block in range(0, episodes, width * per_env):
        seed = first_seed + block
        envs = make_vec(env_id, num_envs=width, **options)
        rng = np.random.default_rng(seed + 77)
        obs, _ = envs.reset(seed=[seed + i for i in range(width)])
        total, length, played = (
            np.zeros(width),
            np.zeros(width, np.int64),
            np.zeros(width, np.int64),
        )
        over = np.zeros(width, bool)
        finished = [[] for _ in range(width)]
        while (played < per_env).any():
            if pilot == "heuristic":
                action = fly_by_law(obs, continuous)
            elif continuous:
                action = rng.uniform(-1, 1, (width, 2)).astype(np.float32)
            else:
                action = rng.integers(0, 4, width)
            obs, reward, terminated, truncated, _ = envs.step(action)
            length += ~over  # the step after an end only resets
            total += reward
            over = terminated | truncated
            for i in np.flatnonzero(over):
                if played[i] < per_env:
                    finished[i].append((total[i], length[i]))
                played[i] += 1
                total[i], length[i] = 0, 0
        envs.close()
        returns += [r for episodes_of in finished for r, _ in episodes_of]
        lengths += [n for episodes_of in finished for _, n in episodes_of]
    return np.array(returns), np.array(lengths)


def main():
    import gymnasium

    reference = {
        "source": f"Gymnasium {gymnasium.__version__}, pybox2d",
        "date": datetime.date.today().isoformat(),
        "seeds": f"{REFERENCE_SEED} to {REFERENCE_SEED + EPISODES - 1}, one an episode",
        "cases": {},
    }
    for case in CASES:
        returns, lengths = scores(gymnasium.make_vec, case, REFERENCE_SEED)
        print(
            f"{case}: mean {returns.mean():.1f} ± {returns.std():.1f}, {lengths.mean():.0f} steps"
        )
        reference["cases"][case] = {
            "returns": [round(float(r), 1) for r in returns],
            "mean_length": round(float(lengths.mean()), 2),
        }
    FILE.write_text(json.dumps(reference) + "\n")


if __name__ == "__main__":
    main()

"""Proximal policy optimisation (Schulman et al. 2017) on one page.

Bessemer's tensors, modules and environments; solves CartPole in about a second:

    ./bessemer python examples/ppo.py [--env CartPole-v1] [--steps 200000] [--seed 1]

Discrete actions. The trainer in C++ (`bessemer.run`) has every detail; this shows how to write one.
"""

import argparse
import time

import bessemer as bs
import numpy as np
from bessemer import nn, optim


class ActorCritic(nn.Module):
    def __init__(self, observations, actions):
        self.policy = nn.Mlp(observations, [64, 64], actions, out_gain=0.01)
        self.value = nn.Mlp(observations, [64, 64], 1, out_gain=1.0)

    def forward(self, obs):
        return self.policy(obs).log_softmax(), self.value(obs)[:, 0]


@bs.no_grad()
def collect(envs, net, obs, over, steps):
    """Steps every environment `steps` times; arrays [steps, envs] and the next observation."""
    n = envs.num_envs
    batch = {
        "obs": np.empty((steps, *obs.shape), np.float32),
        "actions": np.empty((steps, n), np.int64),
        "log_probs": np.empty((steps, n), np.float32),
        "values": np.empty((steps, n), np.float32),
        "rewards": np.empty((steps, n), np.float32),
        "terminated": np.empty((steps, n), bool),
        "over": np.empty((steps, n), bool),
        "valid": np.empty((steps, n), bool),
    }
    returns = []
    for t in range(steps):
        log_probs, values = net(bs.from_numpy(obs))
        actions = bs.categorical_sample(log_probs, bs.rand(n)).numpy()
        batch["obs"][t], batch["actions"][t] = obs, actions
        batch["log_probs"][t] = log_probs.numpy()[np.arange(n), actions]
        batch["values"][t] = values.numpy()
        # The step after an end only starts the next episode: its action was never taken.
        batch["valid"][t] = ~over
        obs, rewards, terminated, truncated, infos = envs.step(actions)
        over = terminated | truncated
        batch["rewards"][t], batch["terminated"][t], batch["over"][t] = rewards, terminated, over
        if "episode" in infos:
            returns.extend(infos["episode"]["r"][infos["_episode"]])
    last_values = net(bs.from_numpy(obs))[1].numpy()
    return batch, obs, over, last_values, returns


def advantages(batch, last_values, gamma, gae_lambda):
    """Generalised advantage estimation (Schulman et al. 2016): a recurrence backwards in time.

    The observation after an end is the episode's last one: the value that follows a truncation is
    a true bootstrap, and one that follows a termination counts as zero.
    """
    next_values = np.concatenate([batch["values"][1:], last_values[None]])
    delta = batch["rewards"] + gamma * next_values * ~batch["terminated"] - batch["values"]
    decay = (gamma * gae_lambda * ~batch["over"]).astype(np.float32)
    return bs.linear_scan(bs.tensor(decay), bs.tensor(delta, dtype="float32"), reverse=True).numpy()


def update(net, optimiser, batch, advantage, settings, rng):
    valid = batch["valid"].ravel()
    data = {
        "obs": batch["obs"].reshape(len(valid), -1)[valid],
        "actions": batch["actions"].ravel()[valid],
        "log_probs": batch["log_probs"].ravel()[valid],
        "advantages": advantage.ravel()[valid],
        "returns": (advantage + batch["values"]).ravel()[valid],
    }
    for _ in range(settings.epochs):
        order = rng.permutation(len(data["obs"]))
        for start in range(0, len(order), settings.batch):
            part = {k: bs.tensor(v[order[start : start + settings.batch]]) for k, v in data.items()}
            adv = part["advantages"]
            adv = (adv - adv.mean()) / (adv.var() + 1e-8).sqrt()

            log_probs, values = net(part["obs"])
            chosen = log_probs.gather(1, part["actions"].reshape(-1, 1))[:, 0]
            ratio = (chosen - part["log_probs"]).exp()
            clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            policy_loss = -bs.minimum(ratio * adv, clipped * adv).mean()
            value_loss = (values - part["returns"]).square().mean()
            entropy = -(log_probs.exp() * log_probs).sum(1).mean()
            loss = policy_loss + 0.5 * value_loss - settings.entropy * entropy

            optimiser.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(net.parameters(), 0.5)
            optimiser.step()


@bs.no_grad()
def evaluate(env_id, net, episodes=20, seed=1000):
    """Mean return of the most likely actions over whole episodes."""
    envs = bs.make_vec(env_id, episodes)
    obs, _ = envs.reset(seed=seed)
    returns = np.full(episodes, np.nan)
    while np.isnan(returns).any():
        actions = net(bs.from_numpy(obs))[0].argmax().numpy()
        obs, _, _, _, infos = envs.step(actions)
        if "episode" in infos:
            first = infos["_episode"] & np.isnan(returns)
            returns[first] = infos["episode"]["r"][first]
    return returns.mean()


def train(settings):
    """Trains until the environment's threshold or `steps`.

    Returns [(steps, mean return), ...] of the evaluations, and the network.
    """
    bs.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    envs = bs.make_vec(settings.env, settings.envs)
    observations = envs.single_observation_space.shape[0]
    net = ActorCritic(observations, int(envs.single_action_space.n))
    optimiser = optim.Adam(net.parameters(), lr=settings.lr, eps=1e-5)
    threshold = bs.env_spec(settings.env)["reward_threshold"]
    obs, _ = envs.reset(seed=settings.seed)
    over = np.zeros(settings.envs, bool)
    curve, done, start = [], 0, time.perf_counter()
    while done < settings.steps:
        batch, obs, over, last_values, returns = collect(envs, net, obs, over, settings.horizon)
        advantage = advantages(batch, last_values, settings.gamma, settings.gae_lambda)
        update(net, optimiser, batch, advantage, settings, rng)
        done += settings.envs * settings.horizon
        curve.append((done, evaluate(settings.env, net)))
        seen = np.mean(returns) if returns else np.nan
        print(
            f"{done:8d} steps  {time.perf_counter() - start:6.1f} s  "
            f"return while exploring {seen:7.1f}  deterministic {curve[-1][1]:7.1f}"
        )
        if threshold is not None and curve[-1][1] >= threshold:
            break
    return curve, net


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--horizon", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--gamma", type=float, default=0.98)
    parser.add_argument("--gae-lambda", type=float, default=0.9)
    parser.add_argument("--clip", type=float, default=0.2)
    parser.add_argument("--entropy", type=float, default=0.0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())

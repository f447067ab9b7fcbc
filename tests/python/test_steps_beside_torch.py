"""Whole optimiser steps of our program, again in torch: transformers' Llama on padded batches of
texts that `tokenizers` reads, the published formulas, clipping and AdamW. Losses and weights."""

import json

import pytest
from bessemer import nn
from language import ENV, bessemer, checkpoint, has_text, make_sft, recipe, rows

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
load_file = pytest.importorskip("safetensors.torch").load_file

pytestmark = pytest.mark.skipif(not has_text(), reason="the program is not built, or without text")

LR, EPS, DECAY, CLIP, STEPS = 2e-3, 1e-4, 0.1, 0.5, 4
# An epsilon that keeps Adam's quotient smooth where a gradient is as small as its rounding.
TRAINER = dict(lr=LR, adam_eps=EPS, weight_decay=DECAY, max_grad_norm=CLIP, total_steps=STEPS)
END = "<|im_end|>"
SCORE = """
def score(prompts, completions, **columns):
    return [sum(map(ord, text)) % 7 for text in completions]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`sft` holds the weights that the runs start from."""
    folder = tmp_path_factory.mktemp("steps")
    make_sft(folder)
    return folder


class Peer:
    """A run's weights in transformers, and the optimiser that the recipes ask for."""

    def __init__(self, run, kind=transformers.LlamaForCausalLM):
        start = checkpoint(run)
        self.load = lambda folder: kind.from_pretrained(folder, dtype=torch.float32)
        self.model, self.reference = self.load(start), self.load(start).requires_grad_(False)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(start / "tokenizer.json"))
        self.adam = torch.optim.AdamW(
            self.model.parameters(), lr=LR, betas=(0.9, 0.999), eps=EPS, weight_decay=DECAY
        )

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def batch(self, prompts, answers):
        """Padded tokens and which are real; which places predict the answers' tokens."""
        rows = [p + a for p, a in zip(prompts, answers, strict=True)]
        width = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        inside = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        trained = torch.tensor([[i >= len(p) for i in range(width)] for p in prompts])
        return tokens, inside, (trained & inside.bool())[:, 1:]

    def log_probs(self, prompts, answers, model=None):
        """Of the answers' tokens, 0 elsewhere, and which places are theirs: [texts, width]."""
        tokens, inside, trained = self.batch(prompts, answers)
        logits = (model or self.model)(tokens, attention_mask=inside).logits[:, :-1]
        chosen = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
        return torch.where(trained, chosen, 0), trained

    def conversations(self, said):
        """Prompts and answers of completions.jsonl."""
        start, answer = "<|im_start|>user\n", f"{END}\n<|im_start|>assistant\n"
        prompts = [self.ids(start + one["prompt"] + answer) for one in said]
        return prompts, [one["token_ids"] for one in said]

    def step(self, loss):
        """One step: its loss and the norm of its gradient."""
        self.adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.adam.param_groups[0]["params"], CLIP)
        self.adam.step()
        return loss.item(), norm.item()

    def compare(self, run):
        """Weights after the last step."""
        ours = dict(self.load(checkpoint(run)).named_parameters())
        for name, tensor in self.model.named_parameters():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=2e-5)


def run(folder, name, algo, source, init="sft", **sections):
    """A run from the start: its rows, one an iteration."""
    trainer = TRAINER | sections.pop("trainer", {})
    text = recipe(algo, source, init=f"init: {{from: {init}}}", trainer=trainer, **sections)
    (folder / f"{name}.yaml").write_text(text)
    bessemer(folder, "run", f"{name}.yaml", f"out={name}")
    return [row for row in rows(folder / name / "metrics.jsonl") if "grad_norm" in row]


def close(row, steps):
    """A row of metrics has the means of its steps."""
    loss, norm = (sum(values) / len(steps) for values in zip(*steps, strict=True))
    assert row["loss"] == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-4)


def sampled(run):
    """What a run says that it sampled."""
    said = map(json.loads, (run / "completions.jsonl").read_text().splitlines())
    return [one for one in said if one["kind"] == "train"]


def said_log_probs(said, trained):
    out = torch.zeros(trained.shape)
    out[trained] = torch.tensor([x for one in said for x in one["log_probs"]])
    return out


def data(folder, lines):
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"{ENV}\ndata: {{from: data.jsonl, holdout: 0}}"


def test_sft(folder):
    texts = [("2+3=", "5"), ("7+9=", "16"), ("say", " a longer answer"), ("é", "ünïcode")]
    source = data(folder, [dict(prompt=p, completion=c) for p, c in texts])
    metrics = run(folder, "more", "sft", source, trainer=dict(batch_size=4, micro_tokens=24))
    peer = Peer(folder / "sft")
    prompts, answers = [peer.ids(p) for p, _ in texts], [peer.ids(c + END) for _, c in texts]
    assert len(metrics) == STEPS
    for row in metrics:
        log_probs, trained = peer.log_probs(prompts, answers)
        close(row, [peer.step(-log_probs.sum() / trained.sum())])
    peer.compare(folder / "more")


@pytest.mark.parametrize(
    "options",
    [dict(beta=0.3, label_smoothing=0.1, sft_coef=0.2), dict(loss="ipo", length_normalize="true")],
    ids=["sigmoid", "ipo"],
)
def test_dpo(folder, options):
    pairs = [("2+3=", "5", "23"), ("7+9=", "16", "1"), ("say", " it well", " it"), ("x", "y", "zz")]
    source = data(folder, [dict(prompt=p, chosen=c, rejected=r) for p, c, r in pairs])
    name = options.get("loss", "sigmoid")
    metrics = run(folder, name, "dpo", source, trainer=dict(batch_size=4) | options)
    peer = Peer(folder / "sft")
    prompts = [peer.ids(p) for p, _, _ in pairs] * 2
    answers = [peer.ids(p[i] + END) for i in (1, 2) for p in pairs]
    reference, trained = peer.log_probs(prompts, answers, peer.reference)
    assert len(metrics) == STEPS
    for row in metrics:
        log_probs, _ = peer.log_probs(prompts, answers)
        ratios = (log_probs - reference).sum(1)
        if "length_normalize" in options:
            ratios = ratios / trained.sum(1)
        chosen, rejected = ratios.chunk(2)
        h = chosen - rejected
        if name == "ipo":
            loss = ((h - 1 / (2 * 0.1)) ** 2).mean()
        else:
            log_sigmoid = torch.nn.functional.logsigmoid
            loss = -(0.9 * log_sigmoid(0.3 * h) + 0.1 * log_sigmoid(-0.3 * h)).mean()
            loss = loss - 0.2 * log_probs[:4].sum() / trained[:4].sum()
        close(row, [peer.step(loss)])
    peer.compare(folder / name)


def test_reward(folder):
    pairs = [("2+3=", "5", "23"), ("7+9=", "16", "1"), ("say", " it well", " it"), ("x", "y", "zz")]
    held = ("held out 3=", "1", "2")  # its hash is below a thousandth
    lines = [dict(prompt=p, chosen=c, rejected=r) for p, c, r in [*pairs, held]]
    source = data(folder, lines).replace("holdout: 0", "holdout: 0.001")
    run(folder, "head", "reward", source, trainer=dict(batch_size=4))  # the head begins at random
    options = dict(batch_size=4, center=0.05)
    metrics = run(folder, "reward", "reward", source, init="head", trainer=options)
    peer = Peer(folder / "head", transformers.LlamaForSequenceClassification)
    texts = [peer.ids(p[0] + p[i] + END) for i in (1, 2) for p in pairs]
    for row in metrics:
        # one by one: transformers cannot score rows of several lengths without a padding token
        scores = torch.cat([peer.model(torch.tensor([text])).logits[0] for text in texts])
        chosen, rejected = scores.chunk(2)
        loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
        loss = loss + 0.05 * ((chosen + rejected) ** 2).mean()
        assert row["mean_reward"] == pytest.approx(scores.mean().item(), rel=1e-4, abs=1e-5)
        close(row, [peer.step(loss)])
    peer.compare(folder / "reward")


def test_grpo(folder):
    """From what the run says that it sampled: two iterations of two steps each."""
    options = dict(batch_size=8, epochs=2, kl_coef=0.1, clip_range=0.05, clip_range_high=0.1)
    (folder / "score.py").write_text(SCORE)
    reward = {"from": "py:score.py:score"}
    metrics = run(folder, "grpo", "grpo", ENV, trainer=options, reward=reward)
    said = sampled(folder / "grpo")
    assert len(said) == 16
    theirs = transformers.AutoTokenizer.from_pretrained(checkpoint(folder / "grpo"))
    turns = [dict(role="system", content="Be brief."), dict(role="user", content=said[0]["prompt"])]
    text = f"<|im_start|>system\nBe brief.{END}\n<|im_start|>user\n{said[0]['prompt']}{END}\n"
    assert theirs.apply_chat_template(turns, tokenize=False) == text
    (prompt,), _ = Peer(folder / "sft").conversations(said[:1])
    rendered = theirs.apply_chat_template(turns[1:], add_generation_prompt=True, return_dict=False)
    assert rendered == prompt and theirs.eos_token == END
    peer = Peer(folder / "sft")
    assert len({one["reward"] for one in said}) > 1
    for row, iteration in zip(metrics, (said[:8], said[8:]), strict=True):
        prompts, answers = peer.conversations(iteration)
        reference, trained = peer.log_probs(prompts, answers, peer.reference)
        old = said_log_probs(iteration, trained)
        # transformers says of these tokens what the sampler said
        torch.testing.assert_close(old, peer.log_probs(prompts, answers)[0], rtol=0, atol=1e-4)
        rewards = torch.tensor([one["reward"] for one in iteration]).reshape(2, 4)
        advantages = (rewards - rewards.mean(1, True)) / (rewards.std(1, keepdim=True) + 1e-4)
        advantages = advantages.reshape(8, 1)
        steps = []
        for _ in range(2):
            log_probs, _ = peer.log_probs(prompts, answers)
            ratio = (log_probs - old).exp()
            d = log_probs - reference
            loss = torch.maximum(-advantages * ratio, -advantages * ratio.clip(0.95, 1.1))
            loss = loss + 0.1 * ((-d).exp() + d - 1)
            steps.append(peer.step((loss * trained).sum() / trained.sum()))
        close(row, steps)
    peer.compare(folder / "grpo")


def test_ppo(folder):
    """The second of two iterations of two steps: critic and moments as the first left."""
    options = dict(batch_size=8, epochs=2, total_steps=2, kl_coef=0.2, clip_range=0.05, gamma=0.9)
    options |= dict(gae_lambda=0.8, vf_coef=0.5, clip_range_vf=0.01, missing_eos_penalty=0.3)
    (folder / "score.py").write_text(SCORE)
    reward = {"from": "py:score.py:score"}
    rollout = dict(groups=8, size=1)
    run(folder, "ppo", "ppo", ENV, trainer=options, reward=reward, rollout=rollout)
    middle = checkpoint(folder / "ppo")
    peer = Peer(folder / "ppo")
    peer.reference = peer.load(checkpoint(folder / "sft"))
    state = load_file(middle / "train.safetensors")
    critic = state["value.weight"].reshape(-1).requires_grad_()
    names = [name for name, _ in nn.Decoder.load(middle).named_parameters()]
    weights = [dict(peer.model.named_parameters())[name] for name in names] + [critic]
    peer.adam.param_groups[0]["params"] = weights
    for i, weight in enumerate(weights):
        moments = {k: state[f"adam.{k}.{i}"].reshape(weight.shape) for k in "mv"}
        peer.adam.state[weight] = dict(
            step=torch.tensor(2.0), exp_avg=moments["m"], exp_avg_sq=moments["v"]
        )
    bessemer(folder, "run", "--resume", "ppo", "trainer.total_steps=4")

    said = sampled(folder / "ppo")[8:]
    prompts, answers = peer.conversations(said)
    tokens, inside, trained = peer.batch(prompts, answers)

    def values():
        hidden = peer.model.model(tokens, attention_mask=inside).last_hidden_state[:, :-1]
        return torch.where(trained, hidden @ critic, 0)

    with torch.no_grad():
        old, old_values = said_log_probs(said, trained), values()
        reference, _ = peer.log_probs(prompts, answers, peer.reference)
        rewards = -0.2 * (old - reference)
        advantages = torch.zeros_like(rewards)
        for row, one in enumerate(said):
            running = following = 0
            rewards[row, trained[row].nonzero()[-1]] += one["reward"]
            for t in trained[row].nonzero().flatten().tolist()[::-1]:
                delta = rewards[row, t] + 0.9 * following - old_values[row, t]
                following = old_values[row, t]
                advantages[row, t] = running = delta + 0.9 * 0.8 * running
        returns = advantages + old_values
        every = advantages[trained]
        advantages = (advantages - every.mean()) / (every.var() + 1e-8).sqrt()
    steps = []
    for _ in range(2):
        ratio = (peer.log_probs(prompts, answers)[0] - old).exp()
        policy = torch.maximum(-advantages * ratio, -advantages * ratio.clip(0.95, 1.05))
        value = values()
        held = old_values + (value - old_values).clip(-0.01, 0.01)
        critics = torch.maximum((value - returns) ** 2, (held - returns) ** 2)
        steps.append(peer.step((policy + 0.5 * 0.5 * critics)[trained].mean()))
    close(rows(folder / "ppo" / "metrics.jsonl")[1], steps)
    peer.compare(folder / "ppo")
    after = load_file(checkpoint(folder / "ppo") / "train.safetensors")["value.weight"]
    torch.testing.assert_close(after.reshape(-1), critic.detach(), rtol=1e-4, atol=2e-5)

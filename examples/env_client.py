"""A client of served environments, from docs/protocol.md alone: pyzmq, msgpack and NumPy.

python examples/env_client.py tcp://127.0.0.1:5555 CartPole-v1
"""

import sys
import time
import uuid

import msgpack
import numpy as np
import zmq


class ServerError(Exception):
    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Client:
    """A session with `num_envs` environments. What is lost on the way is sent again under the same
    id; the server carries each request out once."""

    def __init__(self, address, env, num_envs=1, deadline=10.0, **fields):
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 200
        self.socket.connect(address)
        self.deadline, self.session, self.last = deadline, None, 0
        hello = {"protocol": [1], "client": uuid.uuid4().hex, "env": env, "num_envs": num_envs}
        self.welcome, _ = self.request("hello", **hello, **fields)
        self.session, self.spec = self.welcome["session"], self.welcome["spec"]

    def request(self, kind, arrays=None, **fields):
        """Sends one request and waits for its reply: (fields, {name: array})."""
        self.last += 1
        header = {"type": kind, "id": self.last, **fields}
        if self.session:  # one request at a time: every earlier reply was received
            header.update(session=self.session, ack=self.last - 1)
        arrays = {name: np.ascontiguousarray(a) for name, a in (arrays or {}).items()}
        if arrays:
            header["arrays"] = [[n, str(a.dtype), list(a.shape)] for n, a in arrays.items()]
        frames = [msgpack.packb(header), *(a.tobytes() for a in arrays.values())]
        end, wait = time.monotonic() + self.deadline, 0.2
        while time.monotonic() < end:
            self.socket.send_multipart(frames)
            again = min(end, time.monotonic() + wait)
            while (left := again - time.monotonic()) > 0 and self.socket.poll(left * 1000 + 1):
                head, *parts = self.socket.recv_multipart()
                reply = msgpack.unpackb(head)
                if reply["id"] != self.last:
                    continue  # a copy of an earlier reply
                if reply["type"] == "error":
                    raise ServerError(reply["code"], reply["message"])
                if reply["type"] == "working":
                    again = min(end, time.monotonic() + wait)
                    continue
                listed = zip(reply.pop("arrays", []), parts, strict=True)
                return reply, {n: np.frombuffer(p, d).reshape(s) for (n, d, s), p in listed}
            wait = min(2 * wait, 3.0)
        raise TimeoutError(f"no answer to {kind} within {self.deadline} s")

    def reset(self, seed=None, **fields):
        """{"obs.<channel>": [rows, ...]}"""
        return self.request("reset", seed=seed, **fields)[1]

    def step(self, action):
        """`reward`, `outcome` (1 terminated, 2 truncated, 4 fault) and the observations."""
        channel = self.spec["action"][0]
        if channel["ragged"]:
            texts = [text.encode() for text in action]
            offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
            joined = np.frombuffer(b"".join(texts), np.uint8)
            return self.request("step", {"action.offsets": offsets, "action.bytes": joined})[1]
        return self.request("step", {"action": np.asarray(action, channel["dtype"])})[1]

    def close(self):
        self.request("bye")
        self.socket.close()


def main(address, env):
    client = Client(address, env, num_envs=4)
    channel = client.spec["action"][0]
    rng = np.random.default_rng(0)
    client.reset(seed=0)
    total, begin = 0.0, time.perf_counter()
    for _ in range(1000):
        if channel["ragged"]:
            action = ["a"] * 4
        elif channel["kind"] == "box":
            action = rng.uniform(channel["low"], channel["high"], (4, *channel["shape"]))
        else:
            action = channel["start"] + rng.integers(0, channel["n"], (4, *channel["shape"]))
        total += client.step(action)["reward"].sum()
    seconds = time.perf_counter() - begin
    print(f"{env}: 4000 steps, reward {total:.1f}, {4000 / seconds:.0f} steps/s")
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:3])

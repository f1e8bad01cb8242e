"""The peer: the same models behind BentoML, one request at a time and with its adaptive batching; JSON arrays."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime as ort


def session(name: str) -> ort.InferenceSession:
    """Return a session with the same options as the serving process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = os.environ[f"BENCH_{name.upper()}"]
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@bentoml.service(logging={"access": {"enabled": False}}, metrics={"enabled": False}, tracing={"sample_rate": 0.0})
class Nets:
    """Two networks, each by two ways."""

    def __init__(self) -> None:
        self.small_net, self.big_net = session("small"), session("big")

    @bentoml.api
    def small(self, x: np.ndarray) -> np.ndarray:
        """Run the small one at once."""
        return self.small_net.run(["y"], {"x": x.astype(np.float32)})[0]

    @bentoml.api
    def big(self, x: np.ndarray) -> np.ndarray:
        """Run the big one at once."""
        return self.big_net.run(["y"], {"x": x.astype(np.float32)})[0]

    @bentoml.api(batchable=True, max_batch_size=32)
    def small_batched(self, x: np.ndarray) -> np.ndarray:
        """Run the small one in batches."""
        return self.small_net.run(["y"], {"x": x.astype(np.float32)})[0]

    @bentoml.api(batchable=True, max_batch_size=32)
    def big_batched(self, x: np.ndarray) -> np.ndarray:
        """Run the big one in batches."""
        return self.big_net.run(["y"], {"x": x.astype(np.float32)})[0]

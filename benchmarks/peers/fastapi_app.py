"""The peer: what a careful person writes with FastAPI and ONNX Runtime, one run of the model per request.

`async def`, because the default thread pool makes it slower at every number of connections. Takes and gives the same
JSON as the serving process, so that the same client and payload ask both.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Tensor(BaseModel):
    """A tensor of the Open Inference Protocol."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class InferRequest(BaseModel):
    """What is asked."""

    inputs: list[Tensor]


class InferResponse(BaseModel):
    """What is answered."""

    model_name: str
    outputs: list[Tensor]


def session(path: str) -> ort.InferenceSession:
    """Return a session with the same options as the serving process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def build(models: dict[str, str]) -> FastAPI:
    """Return the application over models by name and path."""
    app = FastAPI()
    sessions = {name: session(path) for name, path in models.items()}

    @app.post("/v2/models/{name}/infer")
    async def infer(name: str, request: InferRequest) -> InferResponse:
        given = request.inputs[0]
        rows = np.array(given.data, dtype=np.float32).reshape(given.shape)
        answer = sessions[name].run(["y"], {"x": rows})[0]
        tensor = Tensor(name="y", datatype="FP32", shape=list(answer.shape), data=answer.ravel().tolist())
        return InferResponse(model_name=name, outputs=[tensor])

    return app


if __name__ == "__main__":
    port, *pairs = sys.argv[1:]
    uvicorn.run(
        build(dict(pair.split("=", 1) for pair in pairs)), host="127.0.0.1", port=int(port), loop="uvloop",
        http="httptools", log_level="warning", access_log=False,
    )  # fmt: skip

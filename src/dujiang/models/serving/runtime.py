"""A model in ONNX Runtime: loading, its signature, whether its rows may be batched, and running it.

Decides which models can be served, which may be batched, and whose fault a failed run is. Leaves to `batching` when to
run what. Runs on the CPU provider, or on an accelerator's where the installed ONNX Runtime brings one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from dujiang.kit import log
from dujiang.models.serving.errors import BadRequest, CannotLoad, ModelFailed
from dujiang.models.serving.protocol import Signature, TensorSpec
from dujiang.models.serving.tensors import DATATYPES, ONNX_DATATYPES

PROVIDERS = (
    "CUDAExecutionProvider",
    "MIGraphXExecutionProvider",
    "ROCMExecutionProvider",
    "CANNExecutionProvider",
    "CPUExecutionProvider",
)
PROBE_ROWS = 3
FREE_AXIS = 4
"""Size given to a free axis other than the batch when a model is tried out at start."""

Tensors = Sequence[NDArray[Any]]


class OnnxModel:
    """One loaded model file. `run` may be called from any thread."""

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load the file.

        Args:
            threads: that one run may use, the calling thread included.

        Raises:
            CannotLoad: the file is missing, is no ONNX model, or has tensors that the protocol cannot carry.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised as well, and answered to whoever caused them
        # Spinning keeps idle threads hot at the price of a core each: a neighbour's core, on a shared node.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        if not path.is_file():
            raise CannotLoad(f"There is no model file {path}.")
        available = ort.get_available_providers()
        try:
            self._session = ort.InferenceSession(
                path, options, providers=[provider for provider in PROVIDERS if provider in available]
            )
        except Exception as error:
            raise CannotLoad(f"{path} is not a model that ONNX Runtime can load: {_reason(error)}") from error
        self._output_names = [spec.name for spec in self._session.get_outputs()]
        self.signature = _signature(path, self._session)
        self._input_names = [spec.name for spec in self.signature.inputs]
        self.batchable = _declared_batchable(self.signature)

    def run(self, inputs: Tensors, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Run the model once and return the named outputs.

        Raises:
            BadRequest: ONNX Runtime calls the input invalid.
            ModelFailed: any other failure inside the model.
        """
        try:
            answer = self._session.run(outputs, dict(zip(self._input_names, inputs, strict=True)))
        except Exception as error:
            # Index out of range, sizes that do not match inside the graph: what was sent does not suit the model.
            if type(error).__name__ == "InvalidArgument":
                raise BadRequest(f"The model cannot run on this input: {_reason(error)}") from error
            raise ModelFailed(f"The model failed on this input: {_reason(error)}") from error
        return [np.ascontiguousarray(tensor) for tensor in answer]

    def probe(self, rng: np.random.Generator) -> None:
        """Run the model before it serves: warm it, and see whether a batch gives each row the answer it gets alone.

        A free first axis does not promise that: a softmax over it, or a count of it, mixes the rows. Such a model is
        served one request at a time. A model that does not run on the made-up input keeps what it declares; then the
        shape of its outputs is still checked on every batch.
        """
        names = [spec.name for spec in self.signature.outputs]
        try:
            rows = [[_made_up(spec, rng) for spec in self.signature.inputs] for _ in range(PROBE_ROWS)]
            alone = [self.run(row, names) for row in rows]
            if not self.batchable:
                return
            together = self.run([np.concatenate(column) for column in zip(*rows, strict=True)], names)
        except (BadRequest, ModelFailed) as error:
            log.get(__name__).info("model not tried out", reason=error.sentence)
            return
        for index, tensor in enumerate(together):
            apart = np.concatenate([outputs[index] for outputs in alone])
            if not _same(tensor, apart):
                self.batchable = False
                log.get(__name__).warning("rows are not independent, so requests are not batched", output=names[index])
                return


def split(tensors: Tensors, rows: Sequence[int]) -> list[list[NDArray[Any]]] | None:
    """Cut the outputs of a batch back into those of its requests, or return None when they are not row by row."""
    total = sum(rows)
    if any(tensor.ndim == 0 or tensor.shape[0] != total for tensor in tensors):
        return None
    parts: list[list[NDArray[Any]]] = []
    start = 0
    for count in rows:
        parts.append([tensor[start : start + count] for tensor in tensors])
        start += count
    return parts


def _signature(path: Path, session: Any) -> Signature:
    inputs: list[TensorSpec] = []
    for node in session.get_inputs():
        if node.type not in ONNX_DATATYPES:
            raise CannotLoad(f'{path}: input "{node.name}" is {node.type}, which the protocol cannot carry.')
        inputs.append(_spec(node))
    outputs = [_spec(node) for node in session.get_outputs() if node.type in ONNX_DATATYPES]
    left_out = [f"{node.name} ({node.type})" for node in session.get_outputs() if node.type not in ONNX_DATATYPES]
    if not outputs:
        raise CannotLoad(
            f"{path} has no tensor among its outputs: {', '.join(left_out)}. "
            "A scikit-learn classifier gives one when it is converted with the option zipmap=False."
        )
    if left_out:
        log.get(__name__).warning("outputs that are no tensors are not served", model=str(path), outputs=left_out)
    return Signature(tuple(inputs), tuple(outputs))


def _spec(node: Any) -> TensorSpec:
    # ONNX writes an unknown size as None, a name, or by some exporters as a number below 1.
    shape = tuple(
        size if isinstance(size, str) or (isinstance(size, int) and size > 0) else None for size in node.shape
    )
    return TensorSpec(node.name, DATATYPES[ONNX_DATATYPES[node.type]], shape)


def _declared_batchable(signature: Signature) -> bool:
    """Say whether the first axis of every input and output is free and, where axes are named, the same one."""
    firsts = [spec.shape[0] if spec.shape else 0 for spec in (*signature.inputs, *signature.outputs)]
    names = {first for first in firsts if isinstance(first, str)}
    inner = {size for spec in signature.inputs for size in spec.shape[1:] if isinstance(size, str)}
    return (
        bool(signature.inputs) and not any(isinstance(f, int) for f in firsts) and len(names) <= 1 and not names & inner
    )


def _made_up(spec: TensorSpec, rng: np.random.Generator) -> NDArray[Any]:
    shape = [1 if axis == 0 else FREE_AXIS for axis in range(len(spec.shape))]
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int):
            shape[axis] = size
    if spec.datatype.name == "BYTES":
        return rng.integers(0, 10, size=shape).astype(str).astype(object)
    if spec.datatype.dtype.kind == "f":
        return rng.standard_normal(size=shape).astype(spec.datatype.dtype)
    return rng.integers(0, 2, size=shape).astype(spec.datatype.dtype)


def _same(batch: NDArray[Any], apart: NDArray[Any]) -> bool:
    if batch.shape != apart.shape:
        return False
    if batch.dtype.kind != "f":
        return bool((batch == apart).all())
    # Sums run in another order in a batch; half precision keeps three digits, so two of them must agree.
    tolerance = 1e-2 if batch.dtype == np.float16 else 1e-3
    scale = float(np.max(np.abs(apart), initial=0.0, where=np.isfinite(apart)))
    return bool(np.allclose(batch, apart, rtol=tolerance, atol=tolerance * scale, equal_nan=True))


def _reason(error: Exception) -> str:
    """Return ONNX Runtime's message without its error class and the source paths of its build machine."""
    text = str(error).partition("\n")[0]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S*/onnxruntime/\S+ (?:\S+ )?(?=[A-Z])", "", text)
    return text[:500]


def metadata(name: str, versions: Sequence[str], signature: Signature) -> Mapping[str, Any]:
    """Return the protocol's description of a model."""
    return {
        "name": name,
        "versions": list(versions),
        "platform": "onnxruntime_onnx",
        "inputs": [spec.metadata() for spec in signature.inputs],
        "outputs": [spec.metadata() for spec in signature.outputs],
    }

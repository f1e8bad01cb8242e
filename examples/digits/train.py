"""Train a small neural network on handwritten digits, saving itself after every epoch.

An ordinary script: it knows nothing of the platform that runs it, only where to save (a folder) and how to go on
from what it saved. Started again with the same folder it continues after the last whole epoch and ends with the
same network, number for number, as if it had never stopped.

    python train.py --epochs 5
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

CLASSES = np.arange(10)
KEPT = 3
"""Checkpoints kept: the newest may be the one that a fault cut short."""


def main() -> int:
    """Train, export, and say how good it is."""
    args = parse_arguments()
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    data = load_data(args.data)
    network, done, step = resume(args.checkpoints) or (new_network(args), 0, 0)
    if done:
        print(f"resumed from the checkpoint of epoch {done}")
    writer = open_tensorboard(args.tensorboard)
    for epoch in range(done + 1, args.epochs + 1):
        began = time.perf_counter()
        network.partial_fit(data["train_images"], data["train_labels"], classes=CLASSES)
        step += -(-len(data["train_labels"]) // args.batch_size)
        accuracy = network.score(data["heldout_images"], data["heldout_labels"])
        save(args.checkpoints, epoch, step, network)
        seconds = time.perf_counter() - began
        print(
            f"epoch={epoch} step={step} loss={network.loss_:.4f} accuracy={accuracy:.4f} seconds={seconds:.2f}",
            flush=True,
        )
        writer(step, {"loss": network.loss_, "accuracy": accuracy})
        if stopping:
            print(f"stopping after signal {stopping[0]}; epoch {epoch} is saved")
            return 128 + stopping[0]
    finish(network, data, args)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line; folders default to what the environment says, if it says anything."""
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--hidden", type=int, nargs="+", default=[1024, 512], help="units of each hidden layer")
    parser.add_argument("--learning-rate", type=float, default=0.0001)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--data", type=Path, default=Path("data/digits.npz"))
    parser.add_argument(
        "--checkpoints", type=Path, default=Path(os.environ.get("DUJIANG_CHECKPOINT_DIR", "checkpoints"))
    )
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("DUJIANG_OUTPUT_DIR", "output")))
    parser.add_argument("--tensorboard", type=Path, help="also write event files for TensorBoard there")
    return parser.parse_args()


def load_data(path: Path) -> dict[str, Any]:
    """Read the arrays, making the file first where there is none."""
    if not path.exists():
        from prepare import write_digits

        write_digits(path)
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def new_network(args: argparse.Namespace) -> MLPClassifier:
    """Return an untrained network."""
    return MLPClassifier(
        hidden_layer_sizes=tuple(args.hidden),
        learning_rate_init=args.learning_rate,
        batch_size=args.batch_size,
        random_state=args.seed,
    )


def save(folder: Path, epoch: int, step: int, network: MLPClassifier) -> None:
    """Write a checkpoint so that it is there whole or not at all, and drop the oldest."""
    folder.mkdir(parents=True, exist_ok=True)
    content = pickle.dumps((epoch, step, network))
    partial = folder / f".partial-{os.getpid()}"
    with partial.open("wb") as file:
        file.write(hashlib.sha256(content).digest() + content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / f"epoch-{epoch:05d}.ckpt")
    for old in sorted(folder.glob("epoch-*.ckpt"))[:-KEPT]:
        old.unlink(missing_ok=True)


def resume(folder: Path) -> tuple[MLPClassifier, int, int] | None:
    """Return network, epoch and step of the newest checkpoint that is whole, or None."""
    for path in sorted(folder.glob("epoch-*.ckpt"), reverse=True):
        stored = path.read_bytes()
        if hashlib.sha256(stored[32:]).digest() != stored[:32]:
            print(f"{path.name} is damaged; trying the one before")
            continue
        epoch, step, network = pickle.loads(stored[32:])
        return network, epoch, step
    return None


def finish(network: MLPClassifier, data: dict[str, Any], args: argparse.Namespace) -> None:
    """Export the network and what it is measured on, and print the final figures."""
    images, labels = data["heldout_images"], data["heldout_labels"]
    accuracy = float(network.score(images, labels))
    loss = float(log_loss(labels, network.predict_proba(images), labels=CLASSES))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "model.onnx").write_bytes(to_onnx(network))
    held_out = {"images": images.astype(float).round(6).tolist(), "labels": labels.tolist()}
    (args.output / "heldout.json").write_text(json.dumps(held_out))
    figures = {"accuracy": accuracy, "loss": loss, "heldout": len(labels), "epochs": args.epochs}
    (args.output / "metrics.json").write_text(json.dumps(figures))
    print(f"final accuracy={accuracy:.6f} heldout_loss={loss:.4f} heldout={len(labels)}")


def to_onnx(network: MLPClassifier) -> bytes:
    """Return the network as ONNX: `images` float32 (n, 64) in; `label` int64 (n) and `probabilities` (n, 10) out."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    model = convert_sklearn(
        network,
        name="digits",
        initial_types=[("images", FloatTensorType([None, 64]))],
        options={id(network): {"zipmap": False}},
        target_opset=17,
    )
    for output, name in zip(model.graph.output, ("label", "probabilities"), strict=True):
        assert output.name == name, f"skl2onnx named an output {output.name}"
    return bytes(model.SerializeToString())


def open_tensorboard(folder: Path | None) -> Any:
    """Return a function that writes scalars; it does nothing without a folder."""
    if folder is None:
        return lambda step, scalars: None
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))

    def write(step: int, scalars: dict[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        writer.flush()

    return write


if __name__ == "__main__":
    sys.exit(main())

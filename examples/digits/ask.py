"""Ask a deployed digits model for the held-out images over HTTP and count the right answers.

Speaks the Open Inference Protocol (version 2) with the standard library alone:

    python ask.py --url http://127.0.0.1:PORT/v2/models/digits --heldout heldout.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any


def main() -> int:
    """Ask in batches and print accuracy and requests per second."""
    parser = argparse.ArgumentParser(description="Ask a deployed model for the held-out digits.")
    parser.add_argument("--url", required=True, help="of the model, ending in /v2/models/NAME")
    parser.add_argument("--heldout", type=Path, default=Path("output/heldout.json"))
    parser.add_argument("--batch", type=int, default=12, help="images in one request")
    args = parser.parse_args()
    held_out = json.loads(args.heldout.read_text())
    images, labels = held_out["images"], held_out["labels"]
    began = time.perf_counter()
    answers: list[int] = []
    for start in range(0, len(images), args.batch):
        answers += ask(args.url, images[start : start + args.batch])
    seconds = time.perf_counter() - began
    right = sum(answer == label for answer, label in zip(answers, labels, strict=True))
    requests = -(-len(images) // args.batch)
    rate = requests / seconds
    print(f"accuracy={right / len(labels):.6f} right={right} of={len(labels)} requests_per_second={rate:.0f}")
    return 0


def ask(url: str, images: list[list[float]]) -> list[int]:
    """Return the label of each image."""
    content = [value for image in images for value in image]
    tensor = {"name": "images", "shape": [len(images), 64], "datatype": "FP32", "data": content}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}).encode()
    request = urllib.request.Request(f"{url}/infer", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        outputs: list[dict[str, Any]] = json.load(answer)["outputs"]
    return [int(label) for output in outputs if output["name"] == "label" for label in output["data"]]


if __name__ == "__main__":
    sys.exit(main())

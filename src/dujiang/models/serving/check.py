"""`python -m dujiang.models.serving.check FILE NAME`: loads a model file and writes its signature as JSON.

A process of its own, so that a hostile or enormous file can neither stop the platform nor take its memory. Exits 0
with `{"inputs": [...], "outputs": [...]}`, 1 with `{"error": sentence}` for a file that cannot be served.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BASE_BYTES = 2**30
PER_FILE_BYTE = 6
"""ONNX Runtime holds weights up to three times while it loads them; one that unfolds into more is refused."""

_HINTS = {
    "xternal data": " A version is one file: save the model with its weights inside.",
    "bad_alloc": " It unfolds into far more memory than the size of its file.",
}


def main(arguments: Sequence[str]) -> int:
    """Check one file; `NAME` is what messages call it."""
    path, name = Path(arguments[0]), arguments[1]
    limit = BASE_BYTES + PER_FILE_BYTE * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = _describe(path, name)
    sys.stdout.write(json.dumps(answer))
    return 1 if "error" in answer else 0


def _describe(path: Path, name: str) -> dict[str, Any]:
    from dujiang.models.serving.errors import CannotLoad  # below the limits that were just set
    from dujiang.models.serving.runtime import OnnxModel

    try:
        signature = OnnxModel(path, threads=1).signature
    except CannotLoad as error:
        # Where the platform keeps things is nothing that a tenant need know.
        told = error.sentence.replace(str(path), name).replace(f"{path.parent}/", "")
        return {"error": told + next((hint for sign, hint in _HINTS.items() if sign in told), "")}
    return {
        "inputs": [dict(spec.metadata()) for spec in signature.inputs],
        "outputs": [dict(spec.metadata()) for spec in signature.outputs],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

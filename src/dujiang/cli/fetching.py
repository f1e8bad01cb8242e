"""Fetching the file of a model version."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dujiang.cli.exits import Exit
from dujiang.cli.session import Stop, connect


def fetch_artifact(model: str, output: Path | None, project: str | None) -> Path:
    """Write the file of `MODEL` or `MODEL:VERSION`; it appears under its name only when it is whole and right.

    Raises:
        Stop: it cannot be written, or what came is not what was registered.
    """
    from dujiang.client import segment

    name, _, version = model.partition(":")
    with connect() as client:
        path = f"/v1/models/{segment(name)}/versions/{segment(version or 'latest')}"
        found = client.get(path, project=project)
        target = output or Path(f"{name}-{found['version']}.onnx")
        part, seen = target.with_name(target.name + ".part"), hashlib.sha256()
        try:
            with part.open("wb") as file, client.stream(
                f"/v1/models/{segment(name)}/versions/{segment(found['version'])}/artifact",
                accept="application/octet-stream", project=found["project_id"],
            ) as answer:  # fmt: skip
                for piece in answer.iter_bytes():
                    seen.update(piece)
                    file.write(piece)
            if f"sha256:{seen.hexdigest()}" != found["digest"]:
                raise Stop(f"What came is not {model} as it was registered; try again.", Exit.FAILED)
            part.replace(target)
        except OSError as error:
            raise Stop(f"{target} cannot be written: {error.strerror}.", Exit.FAILED) from error
        finally:
            part.unlink(missing_ok=True)
    return target

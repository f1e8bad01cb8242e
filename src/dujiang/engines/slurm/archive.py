"""Puts what runs on the nodes into one file: the runner, and the local engine's supervisor with what it needs."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from importlib import resources

_NAMES = (
    "dujiang", "dujiang.engines", "dujiang.engines.local", "dujiang.engines.slurm",
)  # fmt: skip
_MODULES = (
    *(f"dujiang.engines.local.{name}" for name in (
        "containers", "environment", "home", "kernel_log", "limits", "lineage", "linux", "outcome", "ports", "procfs",
        "ranks", "records", "rooms", "stopping", "supervisor",
    )),
    "dujiang.engines.slurm.another",
    "dujiang.engines.slurm.handed",
    "dujiang.engines.slurm.images",
    "dujiang.engines.slurm.reading",
    "dujiang.engines.slurm.runner",
    "dujiang.engines.slurm.settling",
)  # fmt: skip
_MAIN = "import sys\nfrom dujiang.engines.slurm.another import main\nsys.exit(main(sys.argv[1:]))\n"
_EPOCH = (2020, 1, 1, 0, 0, 0)


@cache
def archive() -> bytes:
    """Return the file; the same code gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        _add(file, "__main__.py", _MAIN)
        for name in _NAMES:
            _add(file, f"{name.replace('.', '/')}/__init__.py", "")
        for module in _MODULES:
            package, _, name = module.rpartition(".")
            text = resources.files(package).joinpath(f"{name}.py").read_text(encoding="utf-8")
            _add(file, f"{module.replace('.', '/')}.py", text)
    return buffer.getvalue()


def _add(file: zipfile.ZipFile, name: str, text: str) -> None:
    file.writestr(zipfile.ZipInfo(name, _EPOCH), text)

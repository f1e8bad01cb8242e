"""What finds out, in a Pod, what a job is made from: the local engine's own module, put into one file for Python.

It runs in the job's image after the setup, where that has a `python3`, and leaves what it found packed into text that
fits into the container's last word, of which Kubernetes takes 4,096 bytes.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
import zlib
from functools import cache
from importlib import resources
from typing import Any, Final

from dujiang.engines.contract import Launch

ARCHIVE: Final = "lineage.pyz"
ASKED: Final = "lineage.json"
_HASH_LIMIT_BYTES: Final = 20 << 30
_PACKAGES: Final = ("dujiang", "dujiang.engines", "dujiang.engines.local")
_MODULES: Final = ("environment", "home", "lineage", "procfs")
_EPOCH: Final = (2020, 1, 1, 0, 0, 0)
_MOST_BYTES: Final = 3_000
_NO_PYTHON: Final = "the image has no python3 to find it out with"
_MAIN: Final = f"""
import base64, json, os, sys, zlib
from dujiang.engines.local import lineage
asked, workdir, into = sys.argv[1:]
with open(asked) as file:
    launch = json.load(file)
lineage.record(launch, os.environ, workdir, into + ".json")
with open(into + ".json") as file:
    facts = json.load(file)
pack = lambda: base64.b64encode(zlib.compress(json.dumps(facts).encode(), 9)).decode()
if len(pack()) > {_MOST_BYTES} and facts.get("environment", {{}}).get("packages"):
    count = len(facts["environment"]["packages"])
    facts["environment"].update(packages={{}}, packages_error=f"{{count}} packages are too many to tell")
if len(pack()) > {_MOST_BYTES}:
    facts["inputs"] = {{name: {{"error": "too many inputs to tell"}} for name in list(facts.get("inputs", ()))[:20]}}
with open(into, "w") as file:
    file.write(pack() + "\\n")
"""


@cache
def archive() -> str:
    """Return the file, in base 64; the same code gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        _add(file, "__main__.py", _MAIN)
        for name in _PACKAGES:
            _add(file, f"{name.replace('.', '/')}/__init__.py", "")
        for name in _MODULES:
            text = resources.files("dujiang.engines.local").joinpath(f"{name}.py").read_text(encoding="utf-8")
            _add(file, f"dujiang/engines/local/{name}.py", text)
    return base64.b64encode(buffer.getvalue()).decode()


def _add(file: zipfile.ZipFile, name: str, text: str) -> None:
    file.writestr(zipfile.ZipInfo(name, _EPOCH), text, zipfile.ZIP_DEFLATED)


def is_wanted(launch: Launch) -> bool:
    """Say whether there is anything to find out."""
    return bool(launch.inputs) or launch.record_environment


def asked_of(launch: Launch) -> str:
    """Return what it is told to find out."""
    inputs = [{"name": wanted.name, "path": wanted.path} for wanted in launch.inputs]
    asked = {"inputs": inputs, "record_environment": launch.record_environment, "hash_limit_bytes": _HASH_LIMIT_BYTES}
    return json.dumps(asked)


def unknown(launch: Launch) -> dict[str, Any]:
    """Return what is told where nothing could be found out."""
    facts: dict[str, Any] = {}
    if launch.inputs:
        facts["inputs"] = {wanted.name: {"error": _NO_PYTHON, "path": wanted.path} for wanted in launch.inputs}
    if launch.record_environment:
        facts["environment"] = {"error": _NO_PYTHON}
    return facts


def unpack(text: str) -> dict[str, Any]:
    """Return what was found out; nothing of what is no such text."""
    try:
        found = json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
    except (ValueError, zlib.error):
        return {}
    return found if isinstance(found, dict) else {}

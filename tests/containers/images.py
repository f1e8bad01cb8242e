"""Images made here, without a registry: archives of one layer, as `podman load` and the like take them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

PYTHON = "localhost/dujiang/python:1"
"""Busybox, and the interpreter that runs the tests with its standard library."""
BARE = "localhost/dujiang/bare:1"
"""One file that is no program."""
_BUSYBOX = "/bin/busybox"
_TOOLS = (
    "sh",
    "cat",
    "echo",
    "sleep",
    "env",
    "ls",
    "id",
    "true",
    "false",
    "tail",
    "touch",
    "mkdir",
    "rm",
    "mktemp",
    "ps",
)
_FOLDERS = ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "usr/bin")
_LEFT_OUT = re.compile(
    r"/(test|tests|idlelib|tkinter|turtledemo|ensurepip|__pycache__|site-packages|config-[^/]*)(/|$)"
)


def write_python(path: Path) -> None:
    """Write the archive of `PYTHON`."""
    _write(path, PYTHON, python_layer())


def python_layer() -> bytes:
    """Return the one layer of `PYTHON`; some 60 MB."""
    program = os.path.realpath(sys.executable)
    library = sysconfig.get_paths()["stdlib"]
    files = [program, *_files(library)]
    linked = [one for one in files if one == program or one.endswith(".so")]
    with io.BytesIO() as layer:
        with tarfile.open(fileobj=layer, mode="w", dereference=True) as tar:
            _skeleton(tar)
            for file in dict.fromkeys([*files, *_libraries(linked)]):
                tar.add(file, file.lstrip("/"), recursive=False, filter=_plain)
            _link(tar, "usr/bin/python3", program)
            _file(tar, "etc/made-by", b"the tests\n")
        return layer.getvalue()


def write_bare(path: Path) -> None:
    """Write the archive of `BARE`, which has no shell."""
    with io.BytesIO() as layer:
        with tarfile.open(fileobj=layer, mode="w") as tar:
            _file(tar, "readme", b"nothing runs here\n")
        _write(path, BARE, layer.getvalue())


def config_of(layer: bytes) -> bytes:
    """Return the configuration of an image of one layer."""
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "config": {"Env": ["PATH=/bin:/usr/bin", "FROM_THE_IMAGE=yes", "GREETING=of the image"], "WorkingDir": "/tmp"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": "2026-01-01T00:00:00Z", "comment": "made by the tests"}],
    }
    return json.dumps(config).encode()


def _write(path: Path, name: str, layer: bytes) -> None:
    digest, text = hashlib.sha256(layer).hexdigest(), config_of(layer)
    named = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": named, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        _file(tar, named, text, mode=0o644)
        _file(tar, f"{digest}/layer.tar", layer, mode=0o644)
        _file(tar, "manifest.json", json.dumps(manifest).encode(), mode=0o644)


def _skeleton(tar: tarfile.TarFile) -> None:
    for name in _FOLDERS:
        folder = tarfile.TarInfo(name)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
        tar.addfile(folder)
    _file(tar, "bin/busybox", Path(_BUSYBOX).read_bytes())
    for name in _TOOLS:
        _link(tar, f"bin/{name}", "busybox")


def _files(folder: str) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            if not _LEFT_OUT.search(f"{place}/{name}"[len(folder) :]) and not name.endswith(".a"):
                yield f"{place}/{name}"


def _libraries(programs: list[str]) -> list[str]:
    """Return what the dynamic linker finds for them, under the paths that it finds it by."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r"(/[^\s:]+) \(0x", said)))


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _file(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o755) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    tar.addfile(info)

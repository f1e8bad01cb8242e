"""Finds out, before the program starts, what it is made from: the hashes of its inputs, its interpreter and packages.

Runs in a process of its own under the limits of the first rank. What cannot be found out is said where the fact would
be; it never fails the attempt. Standard library only: the supervisor's process imports this.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from dujiang.engines.local.environment import expand
from dujiang.engines.local.home import write_whole

_BLOCK = 1 << 20
_ASK_PYTHON_S = 60
_ASK_PYTHON = """
import json, platform, sys
from importlib import metadata
packages = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
print(json.dumps({"python": platform.python_version(), "implementation": platform.python_implementation(),
    "executable": sys.executable, "platform": platform.platform(), "packages": dict(sorted(packages.items()))}))
"""


def record(launch: Mapping[str, Any], environment: Mapping[str, str], workdir: str, path: str) -> None:
    """Find out what the launch asks for and write it to a file."""
    facts: dict[str, Any] = {}
    if launch["inputs"]:
        facts["inputs"] = {
            wanted["name"]: hash_input(
                os.path.join(workdir, expand(wanted["path"], environment)), launch["hash_limit_bytes"]
            )
            for wanted in launch["inputs"]
        }
    if launch["record_environment"]:
        facts["environment"] = describe_python(environment, workdir)
    write_whole(path, facts)


def load() -> None:
    """Import now what is imported late otherwise, as before a container is entered that has none of it."""
    import hashlib
    import shutil
    import subprocess

    for module in (hashlib, shutil, subprocess):
        assert module


def hash_input(path: str, limit_bytes: int) -> dict[str, Any]:
    """Return digest, size and method of a file or folder. In a folder a link to a file counts as that file, any other
    link as the text of where it leads.

    Methods: `sha256` of a file's content; `sha256-tree` of the sorted lines `PATH\\0DIGEST\\n` of a folder's files;
    `sha256-manifest`, when there is more than the limit, of the sorted lines `PATH\\0BYTES\\0MTIME_NS\\n` instead.
    """
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            return _hash_tree(path, limit_bytes)
        if not stat.S_ISREG(found.st_mode):
            return {"error": f"{path}: neither a file nor a folder", "path": path}
        size = found.st_size
        if size > limit_bytes:
            return _hash_lines([_manifest_line(os.path.dirname(path), path)], size, 1, "sha256-manifest", path)
        return {"digest": _hash_file(path), "bytes": size, "method": "sha256", "path": path}
    except OSError as error:
        return {"error": f"{path}: {error.strerror}", "path": path}


def describe_python(environment: Mapping[str, str], workdir: str) -> dict[str, Any]:
    """Return version and packages of the `python` (else `python3`) that the job's PATH gives."""
    import shutil  # heavy, and few attempts ask for it: not for every supervisor to carry
    import subprocess

    search = environment.get("PATH", os.defpath)
    program = shutil.which("python", path=search) or shutil.which("python3", path=search)
    if program is None:
        return {"error": "no python on the job's PATH"}
    try:
        answer = subprocess.run(
            [program, "-c", _ASK_PYTHON],
            env=dict(environment),
            cwd=workdir,
            capture_output=True,
            timeout=_ASK_PYTHON_S,
            check=True,
        )
        described = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return {"error": f"{program} did not say: {error}"}
    return described if isinstance(described, dict) else {"error": f"{program} said something else"}


def _hash_tree(root: str, limit_bytes: int) -> dict[str, Any]:
    files = list(_files(root))
    total = sum(_stat(file).st_size for file in files)
    if total > limit_bytes:
        lines = [_manifest_line(root, file) for file in files]
        return _hash_lines(lines, total, len(files), "sha256-manifest", root)
    lines = [os.fsencode(os.path.relpath(file, root)) + b"\0" + _hash_file(file).encode() + b"\n" for file in files]
    return _hash_lines(lines, total, len(files), "sha256-tree", root)


def _files(root: str) -> Iterator[str]:
    for folder, below, names in os.walk(root):
        below.sort()
        for name in sorted([*names, *below]):
            path = os.path.join(folder, name)
            if os.path.islink(path) or stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def _stat(path: str) -> os.stat_result:
    """Return the facts of a file, of a link to a file those of the file: its content is what counts."""
    return os.stat(path) if os.path.isfile(path) else os.lstat(path)


def _hash_file(path: str) -> str:
    import hashlib  # brings OpenSSL along: not for every supervisor to carry

    digest = hashlib.sha256()
    if os.path.islink(path) and not os.path.isfile(path):  # to a folder, which is not followed, or to nothing
        digest.update(os.fsencode(os.readlink(path)))
        return digest.hexdigest()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _manifest_line(root: str, path: str) -> bytes:
    found = _stat(path)
    return os.fsencode(os.path.relpath(path, root)) + f"\0{found.st_size}\0{found.st_mtime_ns}\n".encode()


def _hash_lines(lines: list[bytes], size: int, files: int, method: str, path: str) -> dict[str, Any]:
    import hashlib

    digest = hashlib.sha256(b"".join(sorted(lines))).hexdigest()
    return {"digest": digest, "bytes": size, "files": files, "method": method, "path": path}

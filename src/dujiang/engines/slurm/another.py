"""Begins on the nodes: a job of another user than the platform's, or (`runner`) of its own.

    python3 runner.pyz as-another       the batch script; its launch comes by standard input

The user's folder is made here, by the user, in one that gives it the platform's group; nobody else may enter it. The
platform writes nothing there. Standard library only: it runs on the nodes (`archive`).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from typing import Any

from dujiang.engines.local import records
from dujiang.engines.local.home import write_whole
from dujiang.engines.slurm import handed, runner

_GROUP_ONLY = 0o027


def main(arguments: Sequence[str]) -> int:
    """Be the batch script, or one of its nodes; return the exit status."""
    if list(arguments) != [handed.AS_ANOTHER]:
        return runner.main(arguments)
    given, node = handed.read(sys.stdin.read()), runner.prepare()
    os.umask(_GROUP_ONLY)
    for name in [name for name in os.environ if name.startswith("SUDO_")]:
        del os.environ[name]
    for path in (given["place"], f"{given['place']}/{given['number']}"):
        _make(path)
    return _begin(f"{given['place']}/{given['number']}", node, given)


def _begin(folder: str, node: str, given: dict[str, Any]) -> int:
    """Claim the attempt, unless the platform kept it from starting: whoever writes looks for the other's word after."""
    launch, half = given["launch"], ""
    asks = str(launch["asks"])
    if not runner.claim(folder, node):
        return 0
    if os.path.exists(f"{asks}/kept.json"):
        at_us = records.wall_us()
        why = ["runner", "it was stopped before Slurm started it", at_us]
        runner.write_once(f"{folder}/end.json", {"end": "Stopped", "at": at_us, "evidence": [why]})
        return 0
    if given["half"]:
        with open(f"{asks}/half", encoding="utf-8") as file:
            half = file.read()
    write_whole(f"{folder}/launch.json", launch)  # for the other nodes of several
    return runner.carry_out(folder, node, launch, handed.joined(given["half"], half))


def _make(path: str) -> None:
    """Make a folder of this user's own, or find it.

    Raises:
        PermissionError: somebody else made one of this name.
    """
    try:
        os.mkdir(path, 0o750)
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(f"{path} is not a folder of this user") from None

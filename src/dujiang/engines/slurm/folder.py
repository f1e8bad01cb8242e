"""Where the Slurm engine keeps what it knows: the folder layout under the work folder that platform and nodes share.

known/JOB.NUMBER               one empty file an attempt, until it is forgotten
attempts/JOB/NUMBER/           what `runner` names, and job.json (the batch job), verdict.json (the end for
                               good), forgotten, slurm.out, output-RANK.log, output/
work/JOB/                      the job's own folder, shared by its attempts
closed/NODE                    why a node takes nothing new of ours
runs/                          what others write, where jobs run as other users (`theirs`)
runner-HASH.pyz                what runs on the nodes
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dujiang.engines.contract import AttemptKey, EngineUnavailable
from dujiang.engines.local.home import read_whole, remove, write_whole
from dujiang.engines.slurm.archive import archive
from dujiang.engines.slurm.runner import nodes_of, write_once
from dujiang.kit.beneath import Place
from dujiang.kit.files import read_at, size_of


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of one attempt."""

    path: str

    @property
    def is_ours(self) -> bool:
        """Say whether what stands in it was written by this user, and is believed."""
        return True

    @property
    def run_as(self) -> str:
        """Return the user as whom the attempt runs; empty where that is the platform's own."""
        return ""

    @property
    def output_dir(self) -> str:
        """Return the folder for what the attempt produces; empty where its path is not told."""
        return f"{self.path}/output"

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a file's content, None when it is not there."""
        return read_whole(f"{self.path}/{name}.json")

    def once(self, name: str, payload: dict[str, Any]) -> bool:
        """Make a file; False when it is there already."""
        return write_once(f"{self.path}/{name}.json", payload)

    def write(self, name: str, payload: dict[str, Any]) -> None:
        """Write a file whole."""
        write_whole(f"{self.path}/{name}.json", payload)

    def has(self, name: str) -> bool:
        """Say whether a file is there."""
        return os.path.exists(f"{self.path}/{name}")

    def request(self, line: str) -> None:
        """Append a request to the runner."""
        fd = os.open(f"{self.path}/requests", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{line}\n".encode())
        finally:
            os.close(fd)

    def remove(self, *names: str) -> None:
        """Remove files that are there."""
        for name in names:
            remove(f"{self.path}/{name}")

    def stamp(self) -> tuple[int, int]:
        """Return what changes when a file comes into the folder."""
        with contextlib.suppress(OSError):
            found = os.stat(self.path)
            return found.st_mtime_ns, found.st_nlink
        return 0, 0

    def spend(self) -> None:
        """Remove what is needed for the start alone."""

    def output_size(self, rank: int) -> int:
        """Return how many bytes a rank has printed."""
        return size_of(f"{self.path}/output-{rank}.log")

    def read_output(self, rank: int, offset: int, count: int) -> bytes:
        """Return a piece of what a rank printed."""
        return read_at(f"{self.path}/output-{rank}.log", offset, count)

    def output_place(self, root: str) -> Place:
        """Return where the output folder is to be opened, step by step from the work folder on."""
        return Place(os.path.realpath(root), (*self.path.removeprefix(f"{root}/").split("/"), "output"))

    def nodes(self) -> list[str]:
        """Return the nodes of the attempt: those that Slurm chose, where it did, else those of its launch."""
        placed = self.read("placed") or {}
        return list(placed.get("nodes") or nodes_of(self.read("launch") or {"ranks": []}))

    def used(self, node: str) -> Mapping[str, float] | None:
        """Return what the attempt's processes on a node had used at the last look."""
        return read_whole(f"{self.path}/use/{node}.json")


class WorkDir:
    """The work folder."""

    def __init__(self, root: str) -> None:
        self.root = root

    @cached_property
    def mark(self) -> str:
        """Return what tells the jobs of this work folder from those of another platform of the same user."""
        return f"{zlib.crc32(os.fsencode(os.path.realpath(self.root))):08x}"

    def open(self) -> str:
        """Make the folders and the runner; return the runner's path.

        Raises:
            EngineUnavailable: the folder cannot be written.
        """
        content = archive()
        runner = Path(self.root, f"runner-{hashlib.sha256(content).hexdigest()[:16]}.pyz")
        try:
            for name in ("known", "attempts", "work", "closed"):
                os.makedirs(f"{self.root}/{name}", mode=0o700, exist_ok=True)
            if not runner.exists():
                draft = runner.with_suffix(f".{os.getpid()}")
                draft.write_bytes(content)
                draft.rename(runner)
        except OSError as error:
            raise unwritable(self.root, error) from error
        return str(runner)

    def is_there(self) -> bool:
        """Say whether the folder is seen here, and not an empty one on which it was to be mounted."""
        return os.path.isdir(f"{self.root}/attempts")

    def attempt(self, key: AttemptKey) -> Folder:
        """Return the folder of an attempt."""
        return Folder(f"{self.root}/attempts/{key.job_id}/{key.number}")

    def begin(self, key: AttemptKey) -> Folder:
        """Make the folder of an attempt and list it."""
        folder = self.attempt(key)
        os.makedirs(folder.path, mode=0o700, exist_ok=True)
        Path(self.root, "known", str(key)).touch()
        return folder

    def drop(self, key: AttemptKey) -> None:
        """List an attempt no longer."""
        remove(f"{self.root}/known/{key}")

    def is_known(self, key: AttemptKey) -> bool:
        """Say whether an attempt is listed."""
        return os.path.exists(f"{self.root}/known/{key}")

    def known(self) -> list[AttemptKey]:
        """Return every attempt that is listed."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(AttemptKey.parse(name) for name in os.listdir(f"{self.root}/known"))
        return []

    def close_node(self, node: str, reason: str) -> None:
        """Write down that a node takes nothing new of ours."""
        os.makedirs(f"{self.root}/closed", mode=0o700, exist_ok=True)
        write_whole(f"{self.root}/closed/{node}", {"reason": reason})

    def open_node(self, node: str) -> None:
        """Let a node take work of ours again."""
        remove(f"{self.root}/closed/{node}")

    def closed(self) -> dict[str, str]:
        """Return the closed nodes, with why."""
        with contextlib.suppress(FileNotFoundError):
            names = sorted(os.listdir(f"{self.root}/closed"))
            found = {name: read_whole(f"{self.root}/closed/{name}") for name in names}
            return {name: str(told.get("reason", "")) for name, told in found.items() if told is not None}
        return {}


def unwritable(root: str, error: OSError) -> EngineUnavailable:
    """Return that the work folder cannot be used now."""
    return EngineUnavailable(f"the work folder {root} cannot be used: {error.strerror or error}")

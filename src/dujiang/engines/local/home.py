"""Where the local engine keeps what it knows: the folder layout under its home, for the engine and for its helpers.

    engine.lock                   held by the one platform process that uses this home, and by its zygote
    events.sock                   supervisors say here that something changed
    state/JOB.NUMBER              one state file an attempt (`records`), until it is forgotten
    attempts/JOB/NUMBER/          launch.json, secrets.json (until read), facts.json, output-RANK.log, output/
    work/JOB/                     the job's own folder, shared by its attempts
    rooms/NAME                    containers that are there, or may be (`rooms`)
    cordon.json  ports.lock  zygote.log

Standard library only: the supervisor's process imports this.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one engine's home."""

    root: str

    @property
    def mark(self) -> str:
        """Return what tells this home's processes and limit groups from those of another home."""
        return f"{zlib.crc32(os.fsencode(os.path.realpath(self.root))):08x}"

    @property
    def lock(self) -> str:
        """Return the lock file of the home."""
        return f"{self.root}/engine.lock"

    @property
    def state_dir(self) -> str:
        """Return the folder of the state files: its listing is the list of known attempts."""
        return f"{self.root}/state"

    @property
    def rooms(self) -> str:
        """Return the folder of what containers there are."""
        return f"{self.root}/rooms"

    @property
    def cordon(self) -> str:
        """Return the file that says why the node is closed."""
        return f"{self.root}/cordon.json"

    @property
    def ports(self) -> str:
        """Return the file whose locked bytes are the ports given out."""
        return f"{self.root}/ports.lock"

    @property
    def log(self) -> str:
        """Return the file where helpers that break say why."""
        return f"{self.root}/zygote.log"

    def state(self, key: str) -> str:
        """Return the state file of an attempt, named by its printed key."""
        return f"{self.root}/state/{key}"

    def folder(self, key: str) -> str:
        """Return the folder of an attempt."""
        job, _, number = key.rpartition(".")
        return f"{self.root}/attempts/{job}/{number}"

    def launch(self, key: str) -> str:
        """Return the file that says what to run."""
        return f"{self.folder(key)}/launch.json"

    def secrets(self, key: str) -> str:
        """Return the file of the secrets, removed as soon as it was read."""
        return f"{self.folder(key)}/secrets.json"

    def facts(self, key: str) -> str:
        """Return the file of what was found out before the program started."""
        return f"{self.folder(key)}/facts.json"

    def forgotten(self, key: str) -> str:
        """Return the file that says that an attempt is over and forgotten, and never starts again."""
        return f"{self.folder(key)}/forgotten"

    def output(self, key: str, rank: int) -> str:
        """Return the file with what a rank printed."""
        return f"{self.folder(key)}/output-{rank}.log"

    def output_dir(self, key: str) -> str:
        """Return the folder for what the attempt produces."""
        return f"{self.folder(key)}/output"

    def output_steps(self, key: str) -> tuple[str, ...]:
        """Return the names of the folders on the way from the home to that one."""
        job, _, number = key.rpartition(".")
        return "attempts", job, number, "output"

    def work(self, key: str) -> str:
        """Return the job's own folder, shared by its attempts."""
        return f"{self.root}/work/{key.rpartition('.')[0]}"

    def make(self) -> None:
        """Make the folders, closed to other users.

        Raises:
            OSError: not possible here.
        """
        for path in (self.root, self.state_dir, f"{self.root}/attempts", f"{self.root}/work"):
            os.makedirs(path, mode=0o700, exist_ok=True)


def write_whole(path: str, payload: dict[str, Any]) -> None:
    """Write a file that is there whole or not at all, readable by this user alone.

    Raises:
        OSError: not written; nothing of it is left.
    """
    draft = f"{path}.{os.getpid()}.tmp"
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(json.dumps(payload).encode())
        os.rename(draft, path)
    except OSError:
        remove(draft)
        raise


def read_whole(path: str) -> dict[str, Any] | None:
    """Return what `write_whole` wrote, None when there is nothing or nothing sensible."""
    try:
        with open(path, "rb") as file:
            payload = json.load(file)
    except (OSError, ValueError):
        return None
    return payload if isinstance(payload, dict) else None


def remove(path: str) -> None:
    """Remove a file; quiet when it is gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return

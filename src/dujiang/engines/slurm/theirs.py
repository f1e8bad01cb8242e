"""The folder of an attempt that runs as another user: two folders, each written by one side alone.

    attempts/JOB/NUMBER/           ours, entered but not listed by others: run_as.json, launch.json, half (of the
                                   secrets, until it began), requests, kept.json, claimed.json, job.json, verdict.json
    runs/PLACE/NUMBER/             the user's, made by the runner: claim.json, started.json, end.json, use/, output-N
    runs/PLACE/work/               the job's own folder

`runs` belongs to us, lets everybody make a folder there and nobody list or exchange one (sticky), and gives what is
made the platform's group (set-group-ID), which alone besides its owner may read it. PLACE cannot be guessed.

Which of two files came first cannot be told from two folders, so each side writes its own, then looks for the other's:
`kept` (ours) and `claim` (the runner's). A runner that finds `kept` after it wrote its claim starts nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from dujiang.engines.local.home import remove
from dujiang.engines.slurm import guarded, heard
from dujiang.engines.slurm.folder import Folder
from dujiang.engines.slurm.users import User
from dujiang.kit.beneath import Place


@dataclass(frozen=True, slots=True)
class TheirFolder(Folder):
    """Both folders of such an attempt."""

    user: User
    top: str
    """Of all places: `runs`."""
    place: str
    number: str

    @property
    def is_ours(self) -> bool:
        return False

    @property
    def run_as(self) -> str:
        return self.user.name

    @property
    def output_dir(self) -> str:
        """Nothing: whoever opened it by its path would follow that user's links (`output_place` does not)."""
        return ""

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a file of ours, or what the user's runner says in one of its own."""
        match name:
            case "claim":
                return self._claim() or Folder.read(self, "kept")
            case "started":
                return self._told(name, heard.started)
            case "end":
                return self._told(name, heard.end)
        return Folder.read(self, name)

    def once(self, name: str, payload: dict[str, Any]) -> bool:
        """Make a file of ours; of a claim, False as well where the runner's is there."""
        if name != "claim":
            return Folder.once(self, name, payload)
        return Folder.once(self, "kept", payload) and self._claim() is None

    def has(self, name: str) -> bool:
        """Say whether a file is there."""
        return self.read("claim") is not None if name == "claim.json" else Folder.has(self, name)

    def request(self, line: str) -> None:
        """Append a request, which the runner may read."""
        fd = os.open(f"{self.path}/requests", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o644)
            os.write(fd, f"{line}\n".encode())
        finally:
            os.close(fd)

    def hand_half(self, half: str) -> None:
        """Write our half of the secrets, which says nothing by itself."""
        self.spend()
        fd = os.open(f"{self.path}/half", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(half)
            os.fchmod(fd, 0o644)

    def spend(self) -> None:
        """Remove our half: the attempt began, or never will."""
        remove(f"{self.path}/half")

    def stamp(self) -> tuple[int, int]:
        """Return what changes when a file comes into one of the folders."""
        ours = Folder.stamp(self)
        found = guarded.status_of(self.top, (self.place, self.number), self.user.uid)
        return ours if found is None else (ours[0] + found.st_mtime_ns, ours[1] + found.st_nlink)

    def output_size(self, rank: int) -> int:
        file = self._open(f"output-{rank}.log")
        if file is None:
            return 0
        with file:
            return os.fstat(file.fileno()).st_size

    def read_output(self, rank: int, offset: int, count: int) -> bytes:
        file = self._open(f"output-{rank}.log")
        if file is None:
            return b""
        with file, contextlib.suppress(OSError, OverflowError):
            return os.pread(file.fileno(), max(0, count), offset)
        return b""

    def output_place(self, root: str) -> Place:
        """Return where the user's output folder is; all that is in it must be that user's."""
        return Place(self.top, (self.place, self.number, "output"), self.user.uid)

    def used(self, node: str) -> Mapping[str, float] | None:
        told = guarded.read_object(self.top, (self.place, self.number, "use", f"{node}.json"), self.user.uid)
        return heard.use(told[0]) if told else None

    def record(self, launch: dict[str, Any], half: str) -> dict[str, Any]:
        """Return what the batch script holds."""
        return {"launch": launch, "half": half, "place": f"{self.top}/{self.place}", "number": self.number}

    def _claim(self) -> dict[str, Any] | None:
        """Return the runner's claim: once seen it stays, whatever the user does with the file."""
        if (seen := Folder.read(self, "claimed")) is not None:
            return seen
        told = guarded.read_object(self.top, (self.place, self.number, "claim.json"), self.user.uid)
        if told is None:
            return None
        claim = heard.claim(told[0])
        with contextlib.suppress(OSError):
            Folder.once(self, "claimed", claim)
        return claim

    def _told(self, name: str, said: Any) -> dict[str, Any] | None:
        told = guarded.read_object(self.top, (self.place, self.number, f"{name}.json"), self.user.uid)
        if told is None:
            return None
        submitted = (Folder.read(self, "run_as") or {}).get("at", 0)
        found: dict[str, Any] = said(told[0], Folder.read(self, "launch") or {}, int(submitted), told[1])
        return found

    def _open(self, name: str) -> IO[bytes] | None:
        return guarded.open_file(self.top, (self.place, self.number, name), self.user.uid)

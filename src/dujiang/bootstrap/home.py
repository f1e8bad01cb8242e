"""The folder in which one platform lives: its database, keys, objects, engine, and how to reach it.

dujiang.toml        settings, if any
dujiang.db          the database, unless it is PostgreSQL
keys/journal.key    the key of the audit trail's hash chain: whoever has it can forge the trail
engine/             the local engine (`engines.local.home`)
objects/            artifacts, unless they are on S3
checkpoints/        of jobs that name no folder of their own
server.json         where it listens, while it runs       admin.token      signs this account's commands in
platform.lock       held while it runs                     platform.log     its log
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dujiang.client import SERVER_FILE, TOKEN_FILE
from dujiang.kit.errors import Conflict, StorageFull, Unavailable


class HomeInUse(Conflict):
    """Another platform lives there."""

    code, title = "home_in_use", "The home folder is in use"


class HomeUnusable(Unavailable):
    """The folder cannot be written."""

    code, title = "home_unusable", "The home folder cannot be used"


@dataclass(frozen=True, slots=True)
class PlatformHome:
    """The paths, and what is kept there beside the database."""

    root: Path
    """What the command line looks into."""
    state: Path
    """Where the state is: the root, or a folder in it for a simulated platform, so that the two never mix."""

    @property
    def database(self) -> Path:
        """Return the SQLite file."""
        return self.state / "dujiang.db"

    @property
    def settings_file(self) -> Path | None:
        """Return the settings file, None where there is none."""
        file = self.root / "dujiang.toml"
        return file if file.exists() else None

    @property
    def log(self) -> Path:
        """Return the log file."""
        return self.root / "platform.log"

    def make(self) -> None:
        """Make the folders, closed to other users.

        Raises:
            HomeUnusable, StorageFull: not possible.
        """
        with _told(self.root):
            for folder in (self.root, self.state, self.state / "keys", self.state / "checkpoints"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def lock(self) -> int:
        """Take the home for this process; return the descriptor that holds it until it is closed.

        Raises:
            HomeInUse: another platform has it.
        """
        with _told(self.root):
            fd = os.open(self.root / "platform.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            where = self.read_server().get("url")
            raise HomeInUse(
                f"A platform runs in {self.root} already{f', at {where}' if where else ''}; stop it, or set "
                "DUJIANG_HOME to another folder."
            ) from error
        return fd

    def journal_key(self) -> bytes:
        """Return the key of the audit trail; made when there is none and no database either.

        Raises:
            HomeUnusable: the database is there and its key is not: without it the trail cannot be proved.
        """
        path = self.state / "keys" / "journal.key"
        with _told(path):
            if path.exists():
                return bytes.fromhex(path.read_text().strip())
            if self.database.exists():
                raise HomeUnusable(
                    f"{path} is missing: put it back from a backup; without it the audit trail is unproved."
                )
            key = secrets.token_bytes(32)
            write_private(path, key.hex() + "\n")
            return key

    def publish(self, facts: dict[str, Any], token: str) -> None:
        """Say where the platform listens, and sign this account's commands in."""
        with _told(self.root):
            write_private(self.root / TOKEN_FILE, token + "\n")
            write_private(self.root / SERVER_FILE, json.dumps(facts) + "\n")

    def withdraw(self) -> None:
        """Take back where it listens."""
        with contextlib.suppress(OSError):
            (self.root / SERVER_FILE).unlink()

    def read_server(self) -> dict[str, Any]:
        """Return what the running platform published, empty when nothing sensible is there."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.root / SERVER_FILE).read_text())
            if isinstance(found, dict):
                return found
        return {}


def write_private(path: Path, text: str) -> None:
    """Write a file that only this account can read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


@contextlib.contextmanager
def _told(path: Path) -> Any:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"No space is left for {path}: free some.") from error
        raise HomeUnusable(
            f"{error.filename or path} cannot be used: {error.strerror or error}. DUJIANG_HOME names another folder."
        ) from error
    except ValueError as error:
        raise HomeUnusable(f"{path} does not hold what it should: put it back from a backup.") from error

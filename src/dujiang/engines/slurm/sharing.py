"""The work folder where jobs run as other users too: which attempts do, and what those users may enter."""

from __future__ import annotations

import os

from dujiang.engines.contract import AttemptKey, EngineRefused
from dujiang.engines.local.home import read_whole
from dujiang.engines.slurm import users
from dujiang.engines.slurm.folder import Folder, WorkDir, unwritable
from dujiang.engines.slurm.runner import write_once
from dujiang.engines.slurm.theirs import TheirFolder
from dujiang.engines.slurm.users import User

_ENTERED = 0o711
_DROPPED_INTO = 0o3733
"""Anyone makes a folder there, nobody else lists, renames or removes it, and it is of our group."""
_MOST_KNOWN = 20_000


class SharedWorkDir(WorkDir):
    """A work folder with attempts of this user, and of others."""

    def __init__(self, root: str, *, is_shared: bool) -> None:
        super().__init__(root)
        self._is_shared = is_shared
        self._runs = f"{root}/runs"
        self._known: dict[AttemptKey, Folder] = {}

    def open(self) -> str:
        """Make the folders and the runner, with what others must enter; return the runner's path."""
        runner = super().open()
        if self._is_shared:
            try:
                os.chmod(f"{self.root}/attempts", _ENTERED)
                os.chmod(runner, 0o644)
                os.makedirs(self._runs, mode=0o700, exist_ok=True)
                os.chown(self._runs, -1, os.getegid())
                os.chmod(self._runs, _DROPPED_INTO)
            except OSError as error:
                raise unwritable(self.root, error) from error
        return runner

    def refuse(self, user: User) -> None:
        """Raise where this folder cannot be shared with a user.

        Raises:
            EngineRefused: with what to change.
        """
        try:
            users.refuse_shared(self.root, self._runs, user)
        except OSError as error:
            raise unwritable(self.root, error) from error

    def attempt(self, key: AttemptKey) -> Folder:
        """Return the folder of an attempt, whoever runs it."""
        if key in self._known:
            return self._known[key]
        folder = super().attempt(key)
        told = read_whole(f"{folder.path}/run_as.json")
        if told is not None:
            user = User(str(told["user"]), int(told["uid"]))
            folder = TheirFolder(folder.path, user, self._runs, str(told["place"]), str(key.number))
        elif not os.path.exists(folder.path):
            return folder
        self._remember(key, folder)
        return folder

    def begin_as(self, key: AttemptKey, user: User, at_us: int) -> TheirFolder:
        """Make the folder of an attempt that another user runs, and list it; who it was before stays."""
        folder = super().attempt(key)
        os.makedirs(folder.path, exist_ok=True)
        job = os.path.dirname(folder.path)
        for path in (job, folder.path):
            os.chmod(path, _ENTERED)
        write_once(f"{job}/place-{user.uid}.json", {"place": os.urandom(16).hex()})
        place = (read_whole(f"{job}/place-{user.uid}.json") or {})["place"]
        folder.once("run_as", {"user": user.name, "uid": user.uid, "place": place, "at": at_us})
        self._known.pop(key, None)
        self.begin(key)
        begun = self.attempt(key)
        assert isinstance(begun, TheirFolder)
        if begun.user != user:
            raise EngineRefused(f"attempt {key} was begun as user {begun.user.name!r} and cannot become another's")
        return begun

    def undo(self, key: AttemptKey) -> None:
        """Take back an attempt that Slurm refused: it may be tried again, as whom `run_as` says then."""
        folder = self.attempt(key)
        self.drop(key)
        folder.spend()
        folder.remove("secrets.json", "launch.json", "run_as.json")
        self._known.pop(key, None)

    def drop(self, key: AttemptKey) -> None:
        """List an attempt no longer."""
        super().drop(key)
        self._known.pop(key, None)

    def _remember(self, key: AttemptKey, folder: Folder) -> None:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[key] = folder

"""Empties the folder with output that was read: once a day, of what is old and of no attempt that the cluster has.

Output stays readable after its attempt was forgotten, as on other engines, so age decides. Each rank's `at.json` says
which platform read it. A folder of another platform's, or of which that cannot be told, is left alone: two platforms
may have been given the same one, and what the other reads of a rank that prints little may be old and in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from dujiang.engines.contract import AttemptKey
from dujiang.kit.clock import Clock

_EVERY_S: Final = 86_400.0
_log = structlog.get_logger()


class Clearing:
    """Removes what one platform has kept of the output of attempts that ended long ago."""

    def __init__(self, folder: Path, mark: str, clock: Clock, *, kept_days: float) -> None:
        """Remove nothing yet; with 0 days nothing ever."""
        self._folder, self._mark, self._clock, self._kept_s = folder, mark, clock, kept_days * 86_400.0
        self._looked_s = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._is_over = threading.Event()

    def look(self, known: Collection[AttemptKey]) -> None:
        """Look through the folder beside everything else, once a day; what is not done by then is done the next time.

        Args:
            known: the attempts that the cluster has. One that comes later has nothing here that is old.
        """
        now_s = self._clock.monotonic_s()
        if not self._kept_s or now_s - self._looked_s < _EVERY_S or (self._task and not self._task.done()):
            return
        self._looked_s = now_s
        self._task = asyncio.create_task(self._look({str(key) for key in known}), name="kubernetes output")

    async def _look(self, known: Collection[str]) -> None:
        before_s = self._clock.now().timestamp() - self._kept_s
        try:
            count = await asyncio.to_thread(clear, self._folder, self._mark, known, before_s, self._is_over.is_set)
        except OSError:  # tomorrow it may do better
            _log.exception("output_not_cleared", folder=str(self._folder))
            return
        if count:
            _log.info("output_cleared", folder=str(self._folder), attempts=count)

    async def close(self) -> None:
        """End soon; what is left is for the next one."""
        self._is_over.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def clear(
    folder: Path, mark: str, known: Collection[str], before_s: float, is_over: Callable[[], bool] = lambda: False
) -> int:
    """Remove the output of attempts; return of how many.

    Args:
        folder: with a folder for each job, in it one for each attempt, in it one for each rank.
        mark: of the platform that read it.
        known: keys of attempts whose output stays.
        before_s: seconds since 1970; what was written since stays.
        is_over: asked now and then whether to leave the rest.
    """
    count = 0
    for job in _folders(folder):
        if is_over():
            break
        found = [one for one in _folders(job) if f"{job.name}.{one.name}" not in known]
        for attempt in (old := [one for one in found if _is_old(one, mark, before_s)]):
            shutil.rmtree(attempt, ignore_errors=True)
        count += len(old)
        if old:
            with contextlib.suppress(OSError):  # another attempt of the job is there
                job.rmdir()
    return count


def _is_old(attempt: Path, mark: str, before_s: float) -> bool:
    """Say whether all that is in an attempt's folder was read by this platform, and long ago."""
    ranks = list(_folders(attempt))
    return bool(ranks) and all(_is_old_rank(rank, mark, before_s) for rank in ranks)


def _is_old_rank(rank: Path, mark: str, before_s: float) -> bool:
    try:
        at: Any = orjson.loads((rank / "at.json").read_bytes())
        return at["mark"] == mark and (rank / "at.json").stat().st_mtime < before_s
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _folders(folder: Path) -> Iterator[Path]:
    """Return the folders in a folder, not those that links lead to, in order; none where it is not there."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        yield from sorted(Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False))

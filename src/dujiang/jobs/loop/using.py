"""Measures what running jobs use, and looks when they last saved themselves.

Engines measure; here the samples of each attempt are gathered in a few numbers (`scheduling.domain.usage`). They live
in memory: a restart forgets them, which delays a verdict and never makes one. When a job saved itself is written down,
since the scheduler wants to know what stopping it would lose.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from dujiang.engines.contract import AttemptKey, Engine, EngineUnavailable, Usage
from dujiang.jobs import live_store
from dujiang.jobs.settings import JobSettings
from dujiang.kit import log
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database
from dujiang.kit.loop import TickReport
from dujiang.scheduling.domain.usage import Gathered

_MOST_FOLDERS = 200
"""Checkpoint folders that are looked into at one tick; of more, each has its turn."""
_logger = log.get(__name__)


class UseBook:
    """What was measured of each running attempt."""

    def __init__(self) -> None:
        self.gathered: dict[AttemptKey, Gathered] = {}
        self.of: dict[AttemptKey, str] = {}
        """Of what: `devices`, or `cpu` of a job without."""

    def keep(self, running: Iterable[AttemptKey]) -> None:
        """Forget what has ended."""
        wanted = set(running)
        for key in self.gathered.keys() - wanted:
            del self.gathered[key]
            self.of.pop(key, None)

    def take(self, used: Usage, at_s: float, *, idle_under: float) -> bool:
        """Take a sample; say whether there was something in it."""
        value = used.devices if used.devices is not None else used.cpu
        of = "devices" if used.devices is not None else "cpu"
        if value is None or self.of.get(used.key, of) != of:  # devices that are not told once are not told by cores
            return False
        self.of[used.key] = of
        self.gathered.setdefault(used.key, Gathered()).add(at_s, value, idle_under=idle_under)
        return True


class UseLoop:
    """Measures."""

    def __init__(
        self, *, db: Database, clusters: Mapping[str, Engine], clock: Clock, settings: JobSettings, book: UseBook,
        saved_at: Callable[[str], datetime | None] = lambda _folder: None,
    ) -> None:  # fmt: skip
        """Take what it works with; `saved_at` says when a checkpoint folder was last written to, and may block."""
        self._db, self._clusters, self._clock, self._settings = db, clusters, clock, settings
        self._book, self._saved_at = book, saved_at
        self._turn: Counter[str] = Counter()
        self._troubles = log.Seldom(clock)

    async def look(self, cluster: str) -> TickReport:
        """Take one sample of every running attempt of a cluster."""
        async with self._db.reading() as tx:
            running = await live_store.running_keys(tx)
            saving = await live_store.checkpointing(tx) if running else []
        self._book.keep(key for key, _ in running)
        here = [key for key, where in running if where == cluster]
        if not here:
            return TickReport()
        found = await self._measure(cluster, here)
        at_s = self._clock.monotonic_s()
        taken = sum(self._book.take(used, at_s, idle_under=self._settings.idle_under) for used in found)
        saves = {used.key: used.saved_at for used in found if used.saved_at is not None}
        of_here = frozenset(here)
        saves |= await self._folders(cluster, [one for one in saving if one[0] in of_here])
        known = {key: at for key, _, at in saving}
        news = {key: at for key, at in saves.items() if key in known and at != known[key]}
        if news:
            async with self._db.transaction(cause="use") as tx:
                await live_store.note_saves(tx, news)
        return TickReport({name: count for name, count in (("sample", taken), ("save", len(news))) if count})

    async def _measure(self, cluster: str, keys: Sequence[AttemptKey]) -> list[Usage]:
        try:
            used = list((await self._clusters[cluster].usage(keys)).values())
        except EngineUnavailable as error:
            if self._troubles.is_due(cluster):
                _logger.warning("an engine does not say what is used", cluster=cluster, why=error.sentence)
            return []
        self._troubles.is_over(cluster)
        return used

    async def _folders(
        self, cluster: str, saving: list[tuple[AttemptKey, str, datetime | None]]
    ) -> dict[AttemptKey, datetime]:
        """Look into some checkpoint folders, others next time."""
        if self._turn[cluster] >= len(saving):
            self._turn[cluster] = 0
        some = saving[self._turn[cluster] : self._turn[cluster] + _MOST_FOLDERS]
        self._turn[cluster] += _MOST_FOLDERS

        def look() -> dict[AttemptKey, datetime]:
            return {key: at for key, folder, _ in some if (at := self._saved_at(folder)) is not None}

        return await asyncio.to_thread(look) if some else {}

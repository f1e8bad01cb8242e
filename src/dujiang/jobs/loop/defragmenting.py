"""Looks now and then which running work could make room elsewhere: tells it, or has it stopped so that it goes there.

What to move is decided by `scheduling.domain.moving`, on the snapshot that everyone is told from. What is stopped is
written down as every stop is (`stopping`) and waits again; where it starts is the next plan's choice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any, Final

from dujiang.engines.contract import RankPlacement
from dujiang.jobs import live_store, move_store, store
from dujiang.jobs.looking import Live
from dujiang.jobs.loop.stopping import ask_stops
from dujiang.kit.db import Database
from dujiang.kit.loop import TickReport
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain import Snapshot, StopWhy
from dujiang.scheduling.domain.moving import Advice, Advised, MovePolicy, advise
from dujiang.scheduling.settings import SchedulingSettings

HOUR: Final = timedelta(hours=1)
_LARGE: Final = 500
"""With so many running jobs a look takes long enough to be taken beside the event loop."""


class DefragmentLoop:
    """Proposes moves, and has them made where that is set."""

    def __init__(
        self, *, db: Database, pool: PoolService, live: Live, settings: SchedulingSettings,
        wake: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Take what it works with; `wake` is called when something is to stop."""
        self._db, self._pool, self._live, self._settings, self._wake = db, pool, live, settings, wake

    async def tick(self) -> TickReport:
        """Look once; nothing where it is off."""
        if self._settings.defragment == "off":
            return TickReport()
        seen = await self._live.look()
        async with self._db.reading() as tx:
            moved = await live_store.stops_since(tx, tx.now - HOUR, str(StopWhy.MOVED))
        policy = MovePolicy(
            acts=self._settings.defragment == "act", fresh_s=self._settings.fresh_s, most=self._settings.most_moves,
            most_hourly=self._settings.most_moves_hourly, moved_this_hour=moved,
        )  # fmt: skip
        if len(seen.snapshot.holdings) < _LARGE:
            advice = advise(seen.snapshot, seen.now, policy)
        else:
            advice = await asyncio.to_thread(advise, seen.snapshot, seen.now, policy)
        stopped, is_stale = await self._commit(seen.snapshot, advice)
        if stopped:
            self._wake()
        steps = {"stop": len(stopped), "advise": len(advice.moves), "stale": int(is_stale)}
        return TickReport({name: count for name, count in steps.items() if count})

    async def _commit(self, snapshot: Snapshot, advice: Advice) -> tuple[frozenset[str], bool]:
        """Write down what was found, and what is to stop unless the pool has moved; return the jobs that are to."""
        stopped: frozenset[str] = frozenset()
        is_stale = False
        async with self._db.transaction(cause="defragment") as tx:
            if advice.stops:
                is_stale = await self._pool.version(tx) != snapshot.version
                if not is_stale:
                    jobs = await store.lock_jobs(tx, {stop.job_id for stop in advice.stops})
                    stopped = frozenset(stop.job_id for stop in await ask_stops(tx, advice.stops, jobs))
            await move_store.put(tx, _document(advice, stopped))
        return stopped, is_stale


def _document(advice: Advice, stopped: Collection[str]) -> dict[str, Any]:
    moves = [_move(one, is_stopped=one.move.job_id in stopped) for one in advice.moves]
    return {"waiting": advice.waiting, "movable": advice.movable, "moves": moves}


def _move(one: Advised, *, is_stopped: bool) -> dict[str, Any]:
    move = one.move
    why_not = one.why_not or ("" if is_stopped else "Something changed meanwhile; the next look decides anew.")
    return {
        "job_id": move.job_id, "rank": move.rank, "cluster": move.cluster, "source": _place(move.source),
        "target": _place(move.target), "whole_devices": move.whole_devices,
        "stranded_milli": round(move.stranded_milli), "cost_device_s": round(move.cost_device_s, 1),
        "is_stopped": is_stopped, "why_not": why_not,
    }  # fmt: skip


def _place(rank: RankPlacement) -> dict[str, Any]:
    gpu_milli = sum(share.gpu_milli for share in rank.devices)
    return {"node": rank.node, "devices": [share.name for share in rank.devices], "gpu_milli": gpu_milli}

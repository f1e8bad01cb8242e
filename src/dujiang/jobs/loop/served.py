"""What jobs have had so far, in device-seconds: where work takes turns, who has had less goes first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from dujiang.kit.db import Tx
from dujiang.pool.domain import Allocation
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain.turns import width


class Served:
    """Asks the ledger for what ended attempts had; remembers it until one more has ended. For one user at a time."""

    def __init__(self, pool: PoolService) -> None:
        self._pool = pool
        self._known: dict[str, tuple[int, float]] = {}

    async def of(self, tx: Tx, attempts: Mapping[str, int]) -> dict[str, float]:
        """Return what the ended attempts of jobs had, in device-seconds.

        Args:
            tx: to read in.
            attempts: by job, how many of its attempts have ended; with 0 it has had nothing, and nobody is asked.
        """
        wanted = {job_id: ended for job_id, ended in attempts.items() if ended > 0}
        self._known = {job_id: one for job_id, one in self._known.items() if wanted.get(job_id) == one[0]}
        if fresh := sorted(wanted.keys() - self._known.keys()):
            had = device_seconds(await self._pool.of_jobs(tx, fresh))
            self._known |= {job_id: (wanted[job_id], had.get(job_id, 0.0)) for job_id in fresh}
        return {job_id: seconds for job_id, (_, seconds) in self._known.items()}


def device_seconds(rows: list[Allocation]) -> dict[str, float]:
    """Return by job what its closed rows held; work without devices counts by its processors."""
    devices: defaultdict[tuple[str, int], float] = defaultdict(float)
    cores: defaultdict[tuple[str, int], float] = defaultdict(float)
    for row in rows:
        if row.ended_at is None:
            continue
        share, seconds = row.share, (row.ended_at - row.started_at).total_seconds()
        attempt = share.key.job_id, share.key.number
        devices[attempt] += width(share.gpu_milli, 0) * seconds
        cores[attempt] += width(0, share.cpu_milli) * seconds
    found: defaultdict[str, float] = defaultdict(float)
    for attempt, held in devices.items():
        found[attempt[0]] += held or cores[attempt]
    return dict(found)

"""Brings the files of PENDING versions into the object store, and makes the versions READY or FAILED.

Killed at any instruction it loses nothing: a file that was stored and not yet noted is stored again, to the same
digest. While the object store or the cluster that ran a job is away, versions stay PENDING and say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from dujiang.engines.contract import Engine, EngineUnavailable
from dujiang.engines.lines import Overdue
from dujiang.jobs.domain import Attempt
from dujiang.jobs.service import JobService
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database
from dujiang.kit.errors import Stale, Unavailable
from dujiang.kit.loop import TickReport
from dujiang.models.artifacts import ArtifactRefused, Artifacts, Taken
from dujiang.models.domain import ModelVersion, VersionReason
from dujiang.models.service import ModelRegistry
from dujiang.models.settings import ModelSettings

_MOST = 20
_LONGEST_S = 10.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A version, the attempt that made it, and where its file lies in the output folder."""

    version: ModelVersion
    attempt: Attempt | None
    path: str

    @property
    def cluster(self) -> str:
        """Return where the attempt ran."""
        return self.attempt.cluster if self.attempt is not None else ""


class RegistrationLoop:
    """Registers what jobs have made."""

    def __init__(
        self, *, db: Database, clock: Clock, registry: ModelRegistry, jobs: JobService, artifacts: Artifacts,
        clusters: Mapping[str, Engine], settings: ModelSettings,
    ) -> None:  # fmt: skip
        self._db, self._clock, self._registry, self._jobs = db, clock, registry, jobs
        self._artifacts, self._clusters, self._settings = artifacts, clusters, settings
        self._after = ""

    async def tick(self) -> TickReport:
        """Take some of the waiting versions, the oldest first."""
        started_s = self._clock.monotonic_s()
        waiting, more = await self._waiting()
        due = [one for one in waiting if self._is_due(one, self._clock.now())]
        steps: list[str] = []
        hung: set[str] = set()
        for number, one in enumerate(due):
            if number and self._clock.monotonic_s() - started_s > _LONGEST_S:
                return TickReport.of(steps, again=True)
            if one.cluster in hung:
                continue
            try:
                steps.append(await self._register(one))
            except EngineUnavailable as error:  # of this one; others may have run elsewhere
                await self._delay(one, VersionReason.CLUSTER_AWAY, error.sentence)
                steps.append("delayed")
                if isinstance(error, Overdue):  # others would be waited for as long
                    hung.add(one.cluster)
            except Unavailable as error:  # the store is away for the others too
                for other in due[number:]:
                    await self._delay(other, VersionReason.OBJECT_STORE_AWAY, error.sentence)
                report = TickReport.of([*steps, *["delayed"] * len(due[number:])])
                return TickReport(report.steps, failed=error.sentence)
        return TickReport.of(steps, again=more)

    async def _waiting(self) -> tuple[list[_Waiting], bool]:
        async with self._db.reading() as tx:
            versions = await self._registry.pending(tx, after=self._after, limit=_MOST)
            attempts = await self._jobs.attempts(tx, [one.job_id for one in versions])
            found = [
                _Waiting(
                    one,
                    next((each for each in attempts.get(one.job_id, []) if each.number == one.attempt), None),
                    (await self._registry.lineage(tx, one)).path,
                )
                for one in versions
            ]
        more = len(versions) == _MOST
        self._after = versions[-1].id if more else ""  # those that still wait must not keep the later ones waiting
        return found, more

    def _is_due(self, one: _Waiting, now: datetime) -> bool:
        """Say whether everything that the job reported is there, or has been waited for long enough."""
        if one.attempt is not None and one.attempt.figures_complete:
            return True
        return now - one.version.created_at >= timedelta(seconds=self._settings.figures_within_s)

    async def _register(self, one: _Waiting) -> str:
        """Store one file and settle its version; no transaction is open meanwhile.

        Raises:
            EngineUnavailable: the file cannot be had now.
            Unavailable: the object store is away or full.
        """
        outcome: Taken | ArtifactRefused
        try:
            outcome = await self._take(one)
        except ArtifactRefused as error:
            outcome = error
        try:
            async with self._db.transaction(cause="models:registration") as tx:
                await self._registry.settle(tx, one.version, one.attempt, outcome)
        except Stale:
            return "stale"
        return "registered" if isinstance(outcome, Taken) else "refused"

    async def _take(self, one: _Waiting) -> Taken:
        engine = self._clusters.get(one.cluster)
        if one.attempt is None or engine is None:
            raise ArtifactRefused(
                VersionReason.NO_OUTPUT_FOLDER,
                f'The cluster "{one.cluster}", on which the job left its file, is not configured any more.',
            )
        return await self._artifacts.take(engine, one.attempt.key, one.path)

    async def _delay(self, one: _Waiting, reason: VersionReason, sentence: str) -> None:
        try:
            async with self._db.transaction(cause="models:registration") as tx:
                await self._registry.delay(tx, one.version, reason, sentence)
        except Stale:
            return

"""Looks at the services of deployments: their jobs, and whether they answer; then does what was judged.

No transaction is open while a service is asked. A tick looks at so many deployments at most, and goes on behind them
in the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx

from dujiang.jobs.domain import JobState
from dujiang.kit import log
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database
from dujiang.kit.errors import DujiangError, Stale
from dujiang.kit.loop import TickReport
from dujiang.models.artifacts import Artifacts
from dujiang.models.domain import Deployment, DeploymentState, Seen, Service, judge, model_url, ready_url
from dujiang.models.service import DeploymentService
from dujiang.models.service.deployments import JobView
from dujiang.models.settings import ModelSettings

MOST = 100
_AT_ONCE = 16
_ASK_AGAIN_S = 0.1
_STARTS_WITHIN_S = 30.0
_PRUNE_EVERY_S = 3600.0

_logger = log.get(__name__)


class DeploymentLoop:
    """Brings deployments to where they are meant to be."""

    def __init__(
        self, *, db: Database, clock: Clock, deployments: DeploymentService, artifacts: Artifacts,
        http: httpx.AsyncClient, settings: ModelSettings, most: int = MOST,
    ) -> None:  # fmt: skip
        """Take what it works with.

        Args:
            http: asks services; made to ask no proxy and to follow no redirect.
            most: how many deployments one tick looks at.
        """
        self._db, self._clock, self._deployments, self._artifacts = db, clock, deployments, artifacts
        self._http, self._settings = http, settings
        self._most, self._after = most, ""
        self._answered_s: dict[str, float] = {}
        """When the service of a job last said that it is ready."""
        self._first_asked_s: dict[str, float] = {}
        self._pruned_s: float | None = None

    async def tick(self) -> TickReport:
        """Look at some deployments and do what follows."""
        async with self._db.reading() as tx:
            found = await self._deployments.watched(tx, after=self._after, limit=self._most)
            views = await self._deployments.views(tx, [service.job_id for one in found for service in _services(one)])
        more = len(found) == self._most
        self._after = found[-1].id if more else ""
        turns = asyncio.Semaphore(_AT_ONCE)
        looks = await asyncio.gather(*(self._look(one, views, turns) for one in found))
        steps: list[str] = []
        failed = ""
        for one, (seen, following) in zip(found, looks, strict=True):
            try:
                steps += await self._apply(one, seen, following)
            except DujiangError as error:  # of this one; the others go on
                _logger.warning("a deployment was not moved on", deployment=one.name, reason=error.sentence)
                failed = failed or error.sentence
        await self._prune()
        return TickReport(TickReport.of(steps).steps, more and not failed, failed)

    async def _apply(self, one: Deployment, seen: Seen, following: Seen | None) -> list[str]:
        judgement = judge(one, seen, following, now=self._clock.now())
        if judgement.deployment == one and not judgement.cancel:
            return []
        try:
            async with self._db.transaction(cause="models:deployments") as tx:
                await self._deployments.apply(tx, one, judgement)
        except Stale:
            return ["stale"]
        return [str(judgement.deployment.state).lower()] if judgement.deployment.state is not one.state else ["noted"]

    async def _look(
        self, one: Deployment, views: dict[str, JobView], turns: asyncio.Semaphore
    ) -> tuple[Seen, Seen | None]:
        async with turns:
            looks = [await self._see(one, service, views[service.job_id]) for service in _services(one)]
        return looks[0], looks[1] if len(looks) > 1 else None

    async def _see(self, one: Deployment, service: Service, view: JobView) -> Seen:
        job, attempt = view.job, view.attempt
        if job is None:
            return Seen(ended=True, running=False, reason="JobGone", sentence="The job that served it is gone.")
        if job.has_ended:
            self._answered_s.pop(job.id, None)
            self._first_asked_s.pop(job.id, None)
            return Seen(ended=True, running=False, reason=job.reason, sentence=job.sentence)
        running = job.state is JobState.RUNNING
        base_url = ""
        if running and attempt is not None and attempt.state is JobState.RUNNING and attempt.endpoints:
            base_url = attempt.endpoints[0]
        if one.state is DeploymentState.STOPPING:
            return Seen(ended=False, running=running, reason=job.reason)
        answers = bool(base_url) and await self._answers(one, service, base_url)
        if not answers:
            await self._bring_file(service)
        return Seen(False, running, job.reason, job.sentence, base_url, answers)

    async def _answers(self, one: Deployment, service: Service, base_url: str) -> bool:
        """Say whether the service serves the version; one that did a moment ago is not asked again."""
        now_s = self._clock.monotonic_s()
        settled = one.state is DeploymentState.READY and one.silent_since is None and service is one.service
        settled = settled and one.url == model_url(base_url, one.model)
        last_s = self._answered_s.get(service.job_id)
        if settled and last_s is not None and now_s - last_s < self._settings.ready_every_s:
            return True
        answers = await self._ask(one, service, base_url)
        # A service needs some half a second to load. One that has just begun is asked for as long as a slow answer
        # may take, so that it is in use as soon as it can be and not a tick later.
        begins = now_s - self._first_asked_s.setdefault(service.job_id, now_s) < _STARTS_WITHIN_S
        while not answers and begins and self._clock.monotonic_s() - now_s < self._settings.ready_within_s:
            await self._clock.sleep(_ASK_AGAIN_S)
            answers = await self._ask(one, service, base_url)
        return answers

    async def _ask(self, one: Deployment, service: Service, base_url: str) -> bool:
        try:
            answer = await self._http.get(
                ready_url(base_url, one.model, service.version), timeout=self._settings.ready_within_s
            )
        except httpx.HTTPError:
            return False
        if answer.status_code == 200:
            self._answered_s[service.job_id] = self._clock.monotonic_s()
        return answer.status_code == 200

    async def _bring_file(self, service: Service) -> None:
        """Have the file where the service looks for it: someone may have cleared the folder before a retry."""
        try:
            await self._artifacts.local(service.digest)
        except DujiangError as error:
            _logger.warning("the file of a service is not in its place", digest=service.digest, reason=error.sentence)

    async def _prune(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._pruned_s is not None and now_s - self._pruned_s < _PRUNE_EVERY_S:
            return
        self._pruned_s = now_s
        async with self._db.reading() as tx:
            used = await self._deployments.digests(tx)
        # What a call brings in place just now belongs to a deployment that is not committed yet.
        gone = await self._artifacts.prune(used, before_timestamp=self._clock.now().timestamp() - _PRUNE_EVERY_S)
        if gone:
            _logger.info("files that no service needs were cleared", files=gone)


def _services(one: Deployment) -> Sequence[Service]:
    return [one.service, one.next] if one.next else [one.service]

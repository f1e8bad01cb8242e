"""What the scheduler is told of running attempts beside what the ledger says.

What a specification says of an attempt is read once and kept while it runs: a look at all of them must not read 20,000
specifications.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from dujiang.engines.contract import AttemptKey
from dujiang.jobs import store
from dujiang.jobs.domain import Job, elastic_bounds
from dujiang.jobs.live_store import LiveFacts, live_facts
from dujiang.jobs.spec import Cause
from dujiang.kit.db import Tx
from dujiang.scheduling.domain import About, TaskClass
from dujiang.scheduling.domain.expected import corrected


@dataclass(frozen=True, slots=True)
class Lasting:
    """What does not change while an attempt runs."""

    task_class: TaskClass
    queue: str
    apart: str
    limit_s: float | None
    """How long one attempt can take at most, its grace included."""
    grace_s: float
    may_stop: bool
    ranks_min: int | None
    ranks_max: int | None


class Abouts:
    """Tells of running attempts; remembers what lasts."""

    def __init__(self) -> None:
        self._lasting: dict[AttemptKey, Lasting] = {}

    async def of(self, tx: Tx, running: Set[AttemptKey]) -> dict[AttemptKey, About]:
        """Return what is known of these attempts."""
        self._lasting = {key: one for key, one in self._lasting.items() if key in running}
        if fresh := running - self._lasting.keys():
            jobs = await store.read_jobs(tx, {key.job_id for key in fresh})
            self._lasting |= {key: lasting_of(jobs[key.job_id]) for key in fresh if key.job_id in jobs}
        return {
            facts.key: about(self._lasting[facts.key], facts, tx.now)
            for facts in await live_facts(tx)
            if facts.key in self._lasting
        }

    @property
    def has_elastic(self) -> bool:
        """Say whether any of those looked at last could go on with another number of ranks."""
        return any(one.ranks_min is not None for one in self._lasting.values())


def lasting_of(job: Job) -> Lasting:
    """Return what does not change while an attempt of a job runs."""
    spec = job.spec
    least, most = elastic_bounds(job) or (None, None)
    return Lasting(
        task_class=TaskClass(spec.job_class.value),
        queue=spec.queue or "",
        apart=spec.placement.apart or "",
        limit_s=None if spec.time_limit_s is None else spec.time_limit_s + spec.grace_s,
        grace_s=spec.grace_s,
        may_stop=Cause.PREEMPTION in spec.retry.on,
        ranks_min=least,
        ranks_max=most,
    )


def about(lasting: Lasting, facts: LiveFacts, now: datetime) -> About:
    """Return what the scheduler is told of an attempt."""
    since = facts.started_at or facts.created_at
    ends = [since + timedelta(seconds=lasting.limit_s)] if lasting.limit_s is not None else []
    if facts.stop_asked_at is not None:
        ends.append(facts.stop_asked_at + timedelta(seconds=lasting.grace_s))
    ends_at = min(ends, default=None)
    expected_end = None
    if facts.expected_s is not None:
        ran_s = (now - since).total_seconds()
        expected_end = since + timedelta(seconds=corrected(facts.expected_s, ran_s))
        expected_end = min(expected_end, ends_at) if ends_at is not None else expected_end
    return About(
        ends_at=ends_at,
        expected_end=expected_end,
        queue=lasting.queue,
        task_class=lasting.task_class,
        weight=facts.weight_milli / 1000,
        apart=lasting.apart,
        is_stopping=facts.stop_asked_at is not None,
        may_stop=lasting.may_stop,
        saved_at=None if facts.saved_at is None else max(facts.saved_at, since),  # earlier: it went on from that
        ranks_min=lasting.ranks_min,
        ranks_max=lasting.ranks_max,
    )

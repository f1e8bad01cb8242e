"""What the scheduler is told of running attempts beside what the ledger says.

What a specification says of an attempt is read once and kept while it runs: a look at all of them must not read 20,000
specifications.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dujiang.engines.contract import AttemptKey
from dujiang.jobs import store
from dujiang.jobs.domain import Job, request_of
from dujiang.jobs.live_store import LiveFacts, live_facts
from dujiang.jobs.spec import Cause
from dujiang.kit.clock import from_micros
from dujiang.kit.db import Tx
from dujiang.scheduling.domain import About, Request, TaskClass
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
    nodes: int
    nodes_min: int | None
    """None when it is not elastic."""
    request: Request | None
    """With all its ranks; None when it may not be stopped."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What was told of an attempt at the last look."""

    facts: LiveFacts
    about: About
    holds_until: datetime | None
    """From then on something else is to be told though no fact has changed."""


class Abouts:
    """Tells of running attempts; remembers what lasts, and what was told last."""

    def __init__(self) -> None:
        self._lasting: dict[AttemptKey, Lasting] = {}
        self._told: dict[tuple[str, int], _Told] = {}

    async def of(self, tx: Tx, running: Set[AttemptKey]) -> dict[AttemptKey, About]:
        """Return what is known of these attempts."""
        self._lasting = {key: one for key, one in self._lasting.items() if key in running}
        if fresh := running - self._lasting.keys():
            jobs = await store.read_alike(tx, {key.job_id for key in fresh})
            self._lasting |= {key: lasting_of(jobs[key.job_id]) for key in fresh if key.job_id in jobs}
        before, self._told = self._told, {}
        known: dict[AttemptKey, About] = {}
        by_name = {(key.job_id, key.number): key for key in self._lasting}
        for facts in await live_facts(tx):
            name = facts.job_id, facts.number
            key = by_name.get(name)
            if key is None:
                continue
            told = before.get(name)
            if told is None or told.facts != facts or (told.holds_until is not None and tx.now >= told.holds_until):
                found = about(self._lasting[key], facts, tx.now)
                told = _Told(facts, found, found.expected_end)
            self._told[name] = told
            known[key] = told.about
        return known

    @property
    def has_elastic(self) -> bool:
        """Say whether any of those looked at last could go on with another number of ranks."""
        return any(one.nodes_min is not None for one in self._lasting.values())


def lasting_of(job: Job) -> Lasting:
    """Return what does not change while an attempt of a job runs."""
    spec = job.spec
    may_stop = Cause.PREEMPTION in spec.retry.on and spec.deadline is None  # what was promised is not put at risk
    return Lasting(
        task_class=TaskClass(spec.job_class.value),
        queue=spec.queue or "",
        apart=spec.placement.apart or "",
        limit_s=None if spec.time_limit_s is None else spec.time_limit_s + spec.grace_s,
        grace_s=spec.grace_s,
        may_stop=may_stop,
        nodes=spec.nodes,
        nodes_min=spec.nodes_min,
        request=replace(request_of(job), ranks=spec.nodes, ranks_min=spec.nodes_min) if may_stop else None,
    )


def about(lasting: Lasting, facts: LiveFacts, now: datetime) -> About:
    """Return what the scheduler is told of an attempt."""
    since = from_micros(facts.started_us or facts.created_us)
    asked_us = facts.cancel_us or facts.stop_asked_us
    ends = [since + timedelta(seconds=lasting.limit_s)] if lasting.limit_s is not None else []
    if asked_us is not None:
        ends.append(from_micros(asked_us) + timedelta(seconds=lasting.grace_s))
    ends_at = min(ends, default=None)
    most = lasting.nodes if facts.ranks_most is None else min(lasting.nodes, facts.ranks_most)
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
        is_stopping=asked_us is not None,
        may_stop=lasting.may_stop,
        saved_at=None if facts.saved_us is None else max(from_micros(facts.saved_us), since),  # else of an earlier one
        ranks_min=None if lasting.nodes_min is None else min(lasting.nodes_min, most),
        ranks_max=None if lasting.nodes_min is None else most,
        request=_asked(lasting, most),
    )


def _asked(lasting: Lasting, most: int) -> Request | None:
    """Return what an attempt's job asks for when it waits again."""
    asked = lasting.request
    if asked is None or lasting.nodes_min is None or most == asked.ranks:
        return asked
    return replace(asked, ranks=most, ranks_min=min(lasting.nodes_min, most))

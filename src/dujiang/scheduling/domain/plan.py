"""What to start now, what to stop for it, and why everything else waits.

Pure: the same snapshot and time give the same plan.

Jobs are looked at in the order of the queue. Each is started if its project's quota allows it, and if there is room
that is not kept for a job before it. The first job that waits for room, and could run once others end, gets a
reservation (`reserve`); the first job of each project that waits for quota gets what is left of the quota kept
likewise. So smaller jobs pass larger ones wherever that costs those nothing, and never starve them. For those that
still wait, work of less right is stopped (`preempt`) or devices are rented (`bursting`); when nobody waits, elastic
work grows (`growing`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from dujiang.scheduling.domain.bursting import burst
from dujiang.scheduling.domain.decide import Round, Start
from dujiang.scheduling.domain.growing import grow
from dujiang.scheduling.domain.preempt import Preemption
from dujiang.scheduling.domain.reasons import Wait
from dujiang.scheduling.domain.slots import Risk, Slot
from dujiang.scheduling.domain.snapshot import Snapshot
from dujiang.scheduling.domain.stops import Stop
from dujiang.scheduling.domain.telling import tell

CHANGES: Final = 4
"""For how many different waiting cases a plan looks for the smallest change; `explain` does it for any one job."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start, in the order it was decided, and why the rest waits, in the order of the queue."""

    starts: tuple[Start, ...]
    waits: tuple[Wait, ...]
    """Empty when the plan was not to tell."""
    version: int
    """The pool's version of the snapshot: hand it to the ledger, which refuses once the pool has moved."""
    stops: tuple[Stop, ...] = ()
    """What running work to stop, for what waits or to go on with more ranks, in the order it was decided."""
    slots: tuple[Slot, ...] = ()
    """What is kept for promised deadlines, for the snapshot of the next plan."""
    risks: tuple[Risk, ...] = ()
    """Promised deadlines that can no longer be kept for sure, by job."""
    outcome: tuple[Round, Preemption] | None = field(default=None, repr=False, compare=False)
    """What it was read from; whoever is asked about it next can tell from that."""


def plan(snapshot: Snapshot, now: datetime, *, changes: int = CHANGES, telling: bool = True) -> Plan:
    """Decide what to start now.

    Args:
        snapshot: the moment to decide on.
        now: the time; retries wait for theirs, and time limits count from here.
        changes: for how many waiting cases to look for the smallest change that would start them.
        telling: whether to say why the rest waits, which costs more than deciding.

    Cost: about one vectorised pass over nodes or devices for each start and each different shape that waits; a job of a
    shape that is known not to fit costs next to nothing.
    """
    done, preemption = decided(snapshot, now)
    waits = tell(done, preemption.awaited, changes=changes) if telling else ()
    larger = grow(done) if snapshot.rules.grows and not preemption.stops else []
    stops = (*preemption.stops, *larger)
    return Plan(tuple(done.starts), waits, snapshot.version, stops, done.keeping.slots, done.risks, (done, preemption))


def explain(snapshot: Snapshot, now: datetime, job_id: str) -> Wait | None:
    """Return why one job waits, with the smallest change that would start it; None when it starts or is not there."""
    done, preemption = decided(snapshot, now)
    return next(iter(tell(done, preemption.awaited, changes=1, only=job_id)), None)


def decided(snapshot: Snapshot, now: datetime) -> tuple[Round, Preemption]:
    """Return what was decided, to be told from: one round, and what is stopped for those that it left waiting."""
    done = Round(snapshot, now)
    done.run()
    preemption = Preemption(done)
    if snapshot.rules.preempts:
        preemption.run()
    burst(done, preemption.awaited)
    return done, preemption

"""Whether a deadline can be promised: only when, as far as is known, every deadline that was promised is kept with it.

The future is played through with `plan` itself, carefully: everything takes the whole of its time limit, what has none
keeps what it holds, nothing is stopped for others, and nothing is rented. So who asks for a deadline does not pass
those that stand before it. Once promised, a place is kept for it against everything that comes later, of whatever class
(`keeping`): the promise holds unless nodes are lost, work runs past its limit, or a person reserves nodes or lowers a
quota; then the plan says that it is at risk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from dujiang.kit.errors import Conflict
from dujiang.scheduling.domain.decide import Round
from dujiang.scheduling.domain.forecast import HORIZON_S, Expected, forecast
from dujiang.scheduling.domain.request import Request
from dujiang.scheduling.domain.snapshot import Dependent, Snapshot

_TRIES: Final = 3
"""Later deadlines that are looked at for one that could be promised: each costs a look at the future."""
_MINUTE: Final = timedelta(minutes=1)
_NOTHING: Final[Mapping[str, Dependent]] = {}


class DeadlineNotPromised(Conflict):
    """It would be late, or make late what was promised before."""

    code, title = "deadline_not_promised", "The deadline cannot be promised"


@dataclass(frozen=True, slots=True)
class Promise:
    """What can be said of deadlines that are asked for together."""

    is_kept: bool
    """All of them can be met, and so can all that were promised before."""
    late: tuple[str, ...] = ()
    """Those asked for that would be late, by job."""
    over_at: datetime | None = None
    """When the last of those would be over; None when it cannot be told."""
    endangered: tuple[str, ...] = ()
    """What was promised before, by job, and would be late with them."""
    earliest: datetime | None = None
    """The earliest deadline that could be promised instead, to all of them; None when there is none."""

    def sentence(self, deadline: datetime) -> str:
        """Say why a deadline cannot be promised, and what could be."""
        if self.late and self.over_at is not None:
            why = f"as far as is known now it would be over at {_told(self.over_at)}"
        elif self.late:
            why = "it cannot be told when it starts: what it waits for has no time limit, or ends too far ahead"
        else:
            why = f"{self.endangered[0]}, whose deadline was promised before, would be late"
        begin = f"The deadline {_told(deadline)} cannot be promised: {why}."
        if self.earliest is None:
            return f"{begin} Give it a shorter time_limit, ask for less, or leave the deadline out."
        return f"{begin} The earliest that could be promised is {_told(self.earliest)}."


def promise(
    snapshot: Snapshot, now: datetime, asked: Sequence[Request], after: Mapping[str, Dependent] = _NOTHING
) -> Promise:
    """Say whether deadlines can be promised that are asked for together.

    Args:
        snapshot: what runs and waits, without them; every deadline in it was promised.
        now: the time.
        asked: jobs with a deadline and a time limit.
        after: what those of them wait for that wait for other jobs of the snapshot, or of these, to end; by job.

    Cost: one forecast for what can be promised, up to five for what cannot.
    """
    careful = _careful(snapshot)
    late, endangered, found = _judged(careful, now, asked, after)
    if not late and not endangered:
        return Promise(True)
    if late and (instead := _makes_late(careful, now, asked, after)):
        late, endangered = (), instead
    over_at = _over_at(asked, found, late)
    return Promise(False, late, over_at, endangered, _earliest(careful, now, asked, after))


def takes(request: Request) -> timedelta:
    """Return how long a job can take once it has started."""
    assert request.runs_at_most_s is not None, "a deadline needs a time limit"
    return timedelta(seconds=request.runs_at_most_s)


def _careful(snapshot: Snapshot) -> Snapshot:
    """Return the same without guesses, stops and rented clusters."""
    return replace(
        snapshot,
        holdings=tuple(replace(held, expected_end=None) for held in snapshot.holdings),
        requests=tuple(replace(one, expected_s=None) for one in snapshot.requests),
        dependents=tuple(replace(one, request=replace(one.request, expected_s=None)) for one in snapshot.dependents),
        rules=replace(snapshot.rules, preempts=False, grows=False, burst=None),
    )


def _judged(
    snapshot: Snapshot, now: datetime, asked: Sequence[Request], after: Mapping[str, Dependent]
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Expected]]:
    """Return who of those asked for is late, whom they make late, and when everything starts."""
    fresh = [replace(one, expected_s=None, is_admitted=False) for one in asked]
    found = forecast(_with(snapshot, fresh, after), now)
    late = _late(fresh, found)
    endangered = _late(_waiting(snapshot), found)
    if not late and not endangered:
        return late, _pushed_out(snapshot, now, asked, after), found
    if endangered:  # some may be late without them too: that is not their doing
        without = set(_late(_waiting(snapshot), forecast(snapshot, now)))
        endangered = tuple(one for one in endangered if one not in without)
    return late, endangered, found


def _with(snapshot: Snapshot, asked: Sequence[Request], after: Mapping[str, Dependent]) -> Snapshot:
    """Return the snapshot in which these wait too, for room or for other jobs to end."""
    return replace(
        snapshot, requests=(*snapshot.requests, *(one for one in asked if one.job_id not in after)),
        dependents=(*snapshot.dependents, *(
            replace(after[one.job_id], request=one) for one in asked if one.job_id in after
        )),
    )  # fmt: skip


def _waiting(snapshot: Snapshot) -> list[Request]:
    return [*snapshot.requests, *(one.request for one in snapshot.dependents)]


def _makes_late(
    snapshot: Snapshot, now: datetime, asked: Sequence[Request], after: Mapping[str, Dependent]
) -> tuple[str, ...]:
    """Return which promised deadlines these would break if nothing were kept for those; empty when they are late too.

    That is why they are late themselves.
    """
    plain = replace(snapshot, rules=replace(snapshot.rules, keeps_deadlines=False))
    if not any(one.deadline for one in _waiting(snapshot)):
        return ()
    fresh = [replace(one, expected_s=None) for one in asked]
    found = forecast(_with(plain, fresh, after), now)
    if _late(fresh, found):
        return ()
    without = set(_late(_waiting(plain), forecast(plain, now)))
    return tuple(one for one in _late(_waiting(plain), found) if one not in without)


def _pushed_out(
    snapshot: Snapshot, now: datetime, asked: Sequence[Request], after: Mapping[str, Dependent]
) -> tuple[str, ...]:
    """Return for which deadlines no place could be kept if these were promised too: of those promised, else of these.

    They are in time as things are, but what comes later could not be kept off.
    """
    with_them = _with(snapshot, [replace(one, is_admitted=True) for one in asked], after)
    lost = {risk.job_id for risk in Round(with_them, now).risks}
    if not lost:
        return ()
    before = {risk.job_id for risk in Round(snapshot, now).risks}
    news = {one.job_id for one in asked} & lost
    pushed = lost - before - news or ({one.job_id for one in _waiting(snapshot) if one.deadline} if news else set())
    return tuple(sorted(pushed or news))


def _late(requests: Sequence[Request], found: dict[str, Expected]) -> tuple[str, ...]:
    return tuple(
        one.job_id for one in sorted(requests, key=lambda each: each.job_id)
        if one.deadline is not None and ((at := found[one.job_id].at) is None or at + takes(one) > one.deadline)
    )  # fmt: skip


def _over_at(asked: Sequence[Request], found: dict[str, Expected], of: Sequence[str]) -> datetime | None:
    """Return when the last of some jobs is over; None when that of one cannot be told."""
    ends: list[datetime] = []
    for request in asked:
        if request.job_id in of:
            at = found[request.job_id].at
            if at is None:
                return None
            ends.append(at + takes(request))
    return max(ends, default=None)


def _earliest(
    snapshot: Snapshot, now: datetime, asked: Sequence[Request], after: Mapping[str, Dependent]
) -> datetime | None:
    """Return the first deadline found that can be promised to all, with a minute to spare for asking again.

    With more time a job stands further behind, which may make it later still: hence several tries.
    """
    everyone = [one.job_id for one in asked]
    deadline = now + timedelta(seconds=HORIZON_S)
    best: datetime | None = None
    for _ in range(_TRIES):
        late, endangered, found = _judged(snapshot, now, [replace(one, deadline=deadline) for one in asked], after)
        if endangered or (late and best is not None):
            break
        if not late:
            best = deadline if best is not None or deadline < now + timedelta(seconds=HORIZON_S) else None
        over = _over_at(asked, found, everyone)
        if over is None:
            break
        tried = _whole_minute(over) + _MINUTE
        if best is not None and tried >= best:
            break
        deadline = tried
    return best


def _whole_minute(at: datetime) -> datetime:
    whole = at.replace(second=0, microsecond=0)
    return whole if whole == at else whole + _MINUTE


def _told(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"

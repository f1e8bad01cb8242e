"""What the measured use of running work changes: its weight within its band, and what becomes of what it leaves idle.

Pure. Work under high load gets more weight, work under low load less, one bounded step at a time; between the two
nothing moves, so that a load that wavers does not. What leaves its devices idle is told first. Only after the grace it
shrinks, when it is elastic, or is stopped, when the policy says so. Where too little was measured there is no verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dujiang.kit.units import format_duration
from dujiang.scheduling.domain.bands import BANDS, TaskClass
from dujiang.scheduling.domain.stops import Stop, StopWhy


class Reclaim(StrEnum):
    """What becomes of idle work."""

    OFF = "off"
    """Nothing."""
    NOTIFY = "notify"
    """Its owner is told."""
    STOP = "stop"
    """Its owner is told, and after the grace it shrinks or is stopped."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When what follows."""

    high: float = 0.7
    """Mean use from which on the weight rises."""
    low: float = 0.3
    """Mean use up to which it falls."""
    step: float = 0.05
    """How far it moves at once."""
    least_samples: int = 10
    """With fewer there is no verdict."""
    idle_under: float = 0.05
    """Use below which devices count as idle."""
    idle_after_s: float = 1800.0
    """For how long, without a break."""
    grace_s: float = 1800.0
    """From the notice to the end."""
    reclaim: Reclaim = Reclaim.NOTIFY


@dataclass(frozen=True, slots=True)
class Work:
    """A running job as its use is judged."""

    job_id: str
    task_class: TaskClass
    weight: float
    mean: float | None
    """Mean use since the last look, 0 to 1; None when nothing was measured."""
    samples: int
    window_s: float
    busy_samples: int = 0
    """How many of the samples were not idle."""
    idle_s: float = 0.0
    """For how long every sample has been below `Policy.idle_under`; 0 when the latest was not."""
    idle_samples: int = 0
    """How many those were."""
    told_at: datetime | None = None
    """When its owner was told that it is idle."""
    stop_at: datetime | None = None
    """When it was told that what it leaves idle is taken back."""
    is_exempt: bool = False
    """It counts as busy, whatever it uses."""
    ranks: int = 1
    ranks_min: int | None = None
    """The fewest that it goes on with; None when it is not elastic."""
    ranks_most: int | None = None
    """What it was shrunk to; None when it may have all that it wants."""


class Idle(StrEnum):
    """A step with work that is idle, or was."""

    TOLD = "told"
    OVER = "over"
    """It works again."""
    SHRUNK = "shrunk"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Change:
    """What follows from use."""

    job_id: str
    weight: float
    """From now on."""
    idle: Idle | None = None
    stop_at: datetime | None = None
    """With `TOLD`: when what it does not use is taken back, None when it is not."""
    ranks_most: int | None = None
    """From now on."""
    stop: Stop | None = None
    sentence: str = ""


def rescore(work: Work, policy: Policy, now: datetime) -> Change | None:
    """Return what the use of a running job changes; None when nothing does.

    Args:
        work: the job and its figures.
        policy: when what follows.
        now: the time.
    """
    weight, ranks_most = _weight(work, policy), work.ranks_most
    is_busy = work.mean is not None and work.samples >= policy.least_samples and work.mean >= policy.high
    if is_busy:
        ranks_most = None
    found = _idle(work, policy, now)
    if found is None and weight == work.weight and ranks_most == work.ranks_most:
        return None
    if found is None:
        return Change(work.job_id, weight, ranks_most=ranks_most, sentence=_figures(work, policy))
    return Change(
        work.job_id, weight, found.idle, found.stop_at, found.ranks_most if found.stop else ranks_most, found.stop,
        found.sentence,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Found:
    idle: Idle
    sentence: str
    stop_at: datetime | None = None
    stop: Stop | None = None
    ranks_most: int | None = None


def _weight(work: Work, policy: Policy) -> float:
    if work.mean is None or work.samples < policy.least_samples:
        return work.weight
    band = BANDS[work.task_class]
    if work.mean >= policy.high:
        return round(max(work.weight, min(band.high, work.weight + policy.step)), 3)
    if work.mean <= policy.low and not work.is_exempt:
        return round(min(work.weight, max(band.low, work.weight - policy.step)), 3)
    return work.weight


def _idle(work: Work, policy: Policy, now: datetime) -> _Found | None:
    is_idle = (
        policy.reclaim is not Reclaim.OFF
        and not work.is_exempt
        and work.idle_s >= policy.idle_after_s
        and work.idle_samples >= policy.least_samples
    )
    if work.told_at is not None and not is_idle:
        # Not idle for long enough is not yet busy: what was measured before a restart is forgotten.
        knows = work.busy_samples > 0 or work.is_exempt or policy.reclaim is Reclaim.OFF
        return _Found(Idle.OVER, "It works again, or need not: what it holds stays its own.") if knows else None
    if not is_idle:
        return None
    said = f"Its devices were used less than {policy.idle_under:.0%} for {format_duration(round(work.idle_s))}"
    if work.told_at is None:
        return _tell(work, policy, said, now)
    if policy.reclaim is not Reclaim.STOP or work.stop_at is None or now < work.stop_at:
        return None
    if work.ranks_min is not None and work.ranks > work.ranks_min:
        sentence = f"{said}, so it goes on with {work.ranks_min} of {work.ranks} ranks."
        stop = Stop(work.job_id, StopWhy.RESIZED, sentence=sentence)
        return _Found(Idle.SHRUNK, sentence, stop=stop, ranks_most=work.ranks_min)
    sentence = f"{said}, and its grace since the notice has passed."
    stop = Stop(work.job_id, StopWhy.IDLE, sentence=sentence)
    return _Found(Idle.STOPPED, sentence, stop=stop, ranks_most=work.ranks_most)


def _tell(work: Work, policy: Policy, said: str, now: datetime) -> _Found:
    if policy.reclaim is not Reclaim.STOP:
        return _Found(Idle.TOLD, f"{said}. Cancel it if it is not needed.")
    can_shrink = work.ranks_min is not None and work.ranks > work.ranks_min
    then = f"shrinks to {work.ranks_min} ranks" if can_shrink else "is stopped"
    sentence = (
        f"{said}; it {then} in {format_duration(round(policy.grace_s))} unless it works until then. "
        "An operator can exempt it."
    )
    return _Found(Idle.TOLD, sentence, stop_at=now + timedelta(seconds=policy.grace_s))


def _figures(work: Work, policy: Policy) -> str:
    mean = work.mean or 0.0
    word = "rises" if mean >= policy.high else "falls"
    return (
        f"Mean use of {mean:.0%} over {format_duration(round(work.window_s))} ({work.samples} samples): its weight "
        f"{word} within its band."
    )  # fmt: skip

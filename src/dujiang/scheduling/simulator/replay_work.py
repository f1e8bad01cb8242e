"""What a replay is given, and what it gives: work, what is taken for granted, and what became of each job."""

from __future__ import annotations

from dataclasses import dataclass, field

from dujiang.scheduling.domain.request import Request
from dujiang.scheduling.domain.snapshot import Holding
from dujiang.scheduling.simulator.faults import Fault


@dataclass(frozen=True, slots=True)
class Work:
    """One job: what it asks for, when it comes, and how long it runs. All times in seconds on one clock."""

    request: Request
    at_s: float
    """When it is submitted; of what runs already, the beginning."""
    runs_s: float
    """How long it runs from the beginning of the replay or its start on, uninterrupted and with all its ranks."""
    may_stop: bool = True
    """It can be stopped and go on later."""
    held: Holding | None = None
    """What it holds already at the beginning; None: it has to wait for its place."""
    unsaved_s: float = 0.0
    """Of what runs already: for how long it had worked at the beginning since it last saved itself."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is taken for granted."""

    grace_s: float = 30.0
    """How long what is told to stop still holds its place."""
    checkpoint_s: float = 3600.0
    """Work between two saves, counted from each start; 0: nothing is ever saved."""
    saves_at_stop: bool = False
    """What is told to stop saves itself first, as with a save signal, and does nothing in its grace."""
    restart_s: float = 0.0
    """Work that each interruption adds."""
    knows_run_times: bool = False
    """Each job's time limit is exactly how long it will run, as no platform knows."""
    faults: tuple[Fault, ...] = ()
    """Nodes by their place in the fleet."""
    until_s: float | None = None
    """When to stop looking; None: when everything has ended or nothing more can happen."""
    passes: bool = True
    """Do not plan for arrivals where that provably changes nothing."""
    keeps_spans: bool = False
    """Keep what was held when, for pictures and checks."""


@dataclass(slots=True)
class Fate:
    """What became of one job."""

    start_s: float | None = None
    """When it first ran; None: it never did."""
    end_s: float | None = None
    """None: it has not ended."""
    waited_s: float = 0.0
    """All the time in which it waited for a place, also after it was stopped."""
    stops: int = 0
    """How often it was stopped for others."""
    losses: int = 0
    """How often a node was lost under it."""


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch in which a job held a place."""

    number: int
    """Of the job."""
    begin_s: float
    end_s: float
    held: Holding


@dataclass(slots=True)
class Past:
    """What happened."""

    fates: list[Fate]
    """In the order of the work."""
    begin_s: float = 0.0
    end_s: float = 0.0
    busy_s: float = 0.0
    """Device-seconds that were held."""
    up_s: float = 0.0
    """Device-seconds in which devices were open."""
    lost_s: float = 0.0
    """Device-seconds of work that was or has to be done twice, grace and restarts included."""
    faults: int = 0
    plans: int = 0
    """How often the planner was asked."""
    passed: int = 0
    """How often it was not, since it could have done nothing."""
    use: list[tuple[float, float, int, int]] = field(default_factory=list)
    """From when on: devices held, devices open, jobs waiting."""
    fragments: list[tuple[float, float]] = field(default_factory=list)
    """When, and how many free devices the next job could not use."""
    spans: list[Span] = field(default_factory=list)
    """Only where asked for."""

"""Queueing policies of the simulator, and the names by which a person asks for one.

`fifo`, `easy`, `sjf`, `srtf` and `2d-las` are the published ones, the first two as every text book has them; `default`
is ours. Those that know run times say so: no real platform can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from dujiang.kit.errors import Invalid
from dujiang.scheduling.simulator.queue_policies.backfill import Easy
from dujiang.scheduling.simulator.queue_policies.contract import QueuePolicy, Watch
from dujiang.scheduling.simulator.queue_policies.heads import Heads
from dujiang.scheduling.simulator.queue_policies.history import History
from dujiang.scheduling.simulator.queue_policies.levels import MAX_WAIT_S, Levels, default_level, las_level
from dujiang.scheduling.simulator.queue_policies.shortest import Srtf


class UnknownPolicy(Invalid):
    """A policy that the simulator does not have."""

    code, title = "unknown_policy", "There is no such policy"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a name stands for."""

    make: Callable[[Watch, int], QueuePolicy]
    """From the view of the cluster and the bound on waiting in seconds (0: none)."""
    knows_run_times: bool
    preempts: bool
    sentence: str


POLICIES: Final[Mapping[str, Kind]] = {
    "fifo": Kind(lambda watch, _: Heads(watch, by_run_time=False), False, False,
                 "In order of submission; the first that does not fit holds up the rest."),
    "easy": Kind(lambda watch, _: Easy(watch), True, False,
                 "FIFO; later jobs start where that does not delay the first (EASY backfill, exact run times)."),
    "sjf": Kind(lambda watch, _: Heads(watch, by_run_time=True), True, False,
                "Shortest run time first, never interrupted; the first that does not fit holds up the rest."),
    "srtf": Kind(lambda watch, _: Srtf(watch), True, True, "Shortest remaining time first, interrupted at no cost."),
    "2d-las": Kind(lambda watch, _: Levels(watch, las_level, round_s=60, keeps_running=False), False, True,
                   "Least attained service in two dimensions, as Tiresias: three queues parted at 1 and 10 GPU-hours."),
    "default": Kind(lambda watch, max_wait_s: Levels(watch, default_level, history=History(), keeps_running=True,
                                                     max_wait_s=max_wait_s), False, True,
                    "Ours: attained service and run times of the past in doubling levels, with a bound on waiting."),
}  # fmt: skip


def kind_of(name: str) -> Kind:
    """Return what a name stands for.

    Raises:
        UnknownPolicy: naming those that there are.
    """
    try:
        return POLICIES[name]
    except KeyError:
        raise UnknownPolicy(f"There is no queueing policy {name!r}. Choose one of {', '.join(POLICIES)}.") from None


__all__ = ["MAX_WAIT_S", "POLICIES", "Kind", "QueuePolicy", "UnknownPolicy", "Watch", "kind_of"]

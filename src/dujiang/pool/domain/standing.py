"""How a cluster stands: whether new work may be put there, and what is the matter with it in one sentence. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from dujiang.engines.answers import CallFacts


class ClusterState(StrEnum):
    """What a cluster may be used for."""

    REACHABLE = "reachable"
    DEGRADED = "degraded"
    """It answers, and new work may be put there, but something is the matter."""
    UNREACHABLE = "unreachable"
    """Nothing new is put there; what runs is left alone."""
    REMOVED = "removed"
    """It is no longer in the settings: it is not asked anything."""


REMOVED: Final = (
    "It is no longer in the settings, and is not asked anything. What still holds a place there ends once its table is"
    " back in `dujiang.toml`."
)


@dataclass(frozen=True, slots=True)
class Standing:
    """A cluster's state with its reason, and how long its answers take."""

    state: ClusterState = ClusterState.REACHABLE
    why: str = ""
    answer_s: float | None = None
    """How long the last answer to a look took."""
    answer_p95_s: float | None = None
    """How long 95 of 100 recent ones took at most."""

    def degraded(self, why: str) -> Standing:
        """Return the same with something the matter, unless something worse or other is already."""
        return self if self.why or not why else replace(self, state=ClusterState.DEGRADED, why=why)


ASKED: Final[Mapping[str, str]] = {
    "capabilities": "what it can do",
    "inventory": "what there is",
    "submit": "for new work to be taken",
    "observe": "what its attempts do",
    "usage": "what its attempts use",
    "attempts": "which attempts it knows",
    "cancel": "for work to be stopped",
    "signal": "for work to be signalled",
    "forget": "for ended work to be forgotten",
    "order": "for a node to be closed or opened",
    "logs": "for output",
    "outputs": "for the names of files that a job left",
    "output": "for a file that a job left",
}
"""What each kind of call asks."""
_NEEDED: Final = ("inventory", "capabilities", "observe", "submit")
"""Without answers to these nothing new can be run there; in the order in which they are told."""


def judge(facts: Sequence[CallFacts], *, within_s: float) -> tuple[ClusterState, str]:
    """Say how a cluster stands by its answers.

    Args:
        facts: of its kinds of calls.
        within_s: how long is waited for an answer.
    """
    known = {one.call: one for one in facts}
    ordered = [known.pop(call) for call in _NEEDED if call in known] + sorted(known.values(), key=lambda one: one.call)
    for one in ordered:
        if one.call in _NEEDED and one.is_silent:
            return ClusterState.UNREACHABLE, f"It was asked {_asked(one)} and has not answered."
    for one in ordered:
        if one.call in ("inventory", "capabilities") and one.failed:
            return ClusterState.UNREACHABLE, one.failed
    for one in ordered:
        if one.overdue:
            several = f", {one.overdue} times in all" if one.overdue > 1 else ""
            return ClusterState.DEGRADED, f"It was asked {_asked(one)} and has not answered that{several}."
        if one.failed:
            return ClusterState.DEGRADED, f"It did not answer when asked {ASKED.get(one.call, one.call)}: {one.failed}"
        if one.late_s is not None:
            return ClusterState.DEGRADED, (
                f"It took {one.late_s:.1f} s to answer when asked {ASKED.get(one.call, one.call)}; "
                f"{within_s:g} s are waited."
            )  # fmt: skip
    return ClusterState.REACHABLE, ""


def missing(names: Sequence[str], total: int, held: int) -> str:
    """Say which nodes a cluster does not list any more, empty when there are none.

    Args:
        names: of those nodes.
        total: how many nodes are known there, these among them.
        held: how many of these have running work.
    """
    if not names:
        return ""
    some = ", ".join(sorted(names)[:3]) + (" ..." if len(names) > 3 else "")
    running = f", {held} of them with running work" if held else ""
    return f"It does not list {len(names)} of its {total} nodes any more ({some}){running}."


def _asked(one: CallFacts) -> str:
    at = f" at {one.asked_at:%Y-%m-%d %H:%M:%S} UTC" if one.asked_at else ""
    return f"{ASKED.get(one.call, one.call)}{at}"

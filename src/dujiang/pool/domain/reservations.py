"""Times in which nodes are for some projects only, or for nobody: what they are, and what is wrong or odd about one.

Nothing is stopped when one begins: the scheduler starts nothing on these nodes that could still run then. So whoever
plans maintenance early enough finds the nodes empty, and whoever plans it late drains them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from dujiang.kit.errors import Conflict, Invalid, NotFound
from dujiang.kit.state import Machine

MAX_NODES: Final = 20_000
MAX_PROJECTS: Final = 100
MOST: Final = timedelta(days=3650)
"""From now to its ends."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class ReservationState(StrEnum):
    """Where a reservation stands."""

    PLANNED = "PLANNED"
    ACTIVE = "ACTIVE"
    ENDED = "ENDED"


_S = ReservationState
RESERVATION_STATES: Final = Machine(
    "reservation",
    {
        _S.PLANNED: frozenset({_S.ACTIVE, _S.ENDED}),
        _S.ACTIVE: frozenset({_S.PLANNED, _S.ENDED}),  # put off after it had begun
        _S.ENDED: frozenset(),
    },
    start=_S.PLANNED,
)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A time in which nodes are for some projects only, or for nobody."""

    id: str
    name: str
    cluster: str
    """Name."""
    nodes: tuple[str, ...]
    """Names, sorted; empty is all of the cluster, also those that join later."""
    begins_at: datetime
    ends_at: datetime
    projects: tuple[str, ...]
    """Ids, sorted: whom it is for; empty is nobody: maintenance."""
    reason: str
    made_by: str
    made_at: datetime
    state: ReservationState

    @property
    def is_maintenance(self) -> bool:
        """Say whether nobody may use the nodes."""
        return not self.projects

    def state_at(self, now: datetime) -> ReservationState:
        """Return where it stands by the clock."""
        if now >= self.ends_at:
            return _S.ENDED
        return _S.ACTIVE if now >= self.begins_at else _S.PLANNED

    def overlaps(self, other: Reservation) -> bool:
        """Say whether both have a node at one moment."""
        at_once = self.begins_at < other.ends_at and other.begins_at < self.ends_at
        shared = not self.nodes or not other.nodes or not set(self.nodes).isdisjoint(other.nodes)
        return self.cluster == other.cluster and at_once and shared


class UnknownReservation(NotFound):
    """No such reservation."""

    code, title = "reservation_not_found", "No such reservation"


class ReservationExists(Conflict):
    """One of that name has not ended."""

    code, title = "reservation_exists", "The name is taken"


class ReservationOver(Conflict):
    """It has ended."""

    code, title = "reservation_over", "The reservation has ended"


class BadReservation(Invalid):
    """A reservation that means nothing."""

    code, title = "bad_reservation", "The reservation is not valid"


def check(name: str, begins_at: datetime, ends_at: datetime, now: datetime) -> None:
    """Let a reservation pass that says when.

    Raises:
        BadReservation: its name is none, it ends before it begins or before now, or lies ten years away.
    """
    if not _NAME.fullmatch(name):
        raise BadReservation(
            "The name of a reservation has up to 63 lower-case letters, digits and dashes, with a letter or digit at "
            "both ends."
        )
    if max(ends_at - now, now - begins_at) > MOST:
        raise BadReservation(f"It would begin or end more than {MOST.days // 365} years from now; give a nearer time.")
    if ends_at <= begins_at:
        raise BadReservation(
            f"It would end at {_told(ends_at)}, not after it begins ({_told(begins_at)}); give a later end."
        )
    if ends_at <= now:
        raise BadReservation(f"It would have ended already, at {_told(ends_at)}; give an end in the future.")


def warnings(made: Reservation, others: Sequence[Reservation], attempts_there: int) -> list[str]:
    """Return what whoever makes a reservation should know, one sentence each."""
    told = [
        f'It overlaps "{other.name}" ({_told(other.begins_at)} to {_told(other.ends_at)}): the nodes of both are '
        f"{_whose(made, other)} in that time."
        for other in sorted(others, key=lambda each: (each.begins_at, each.name))
        if other.id != made.id and made.overlaps(other)
    ]
    if attempts_there:
        has, are = ("attempt has", "it is") if attempts_there == 1 else ("attempts have", "they are")
        told.append(
            f"{attempts_there} {has} a place on these nodes now; {are} not stopped when it begins. Drain the nodes to "
            "empty them."
        )
    return told


def _whose(one: Reservation, other: Reservation) -> str:
    return "for whom both are made" if set(one.projects) & set(other.projects) else "for nobody"


def _told(at: datetime) -> str:
    return at.isoformat(timespec="seconds")

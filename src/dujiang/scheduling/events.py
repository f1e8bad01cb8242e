"""What happened in scheduling. Starts are not here: jobs and the ledger are their record."""

from __future__ import annotations

from dataclasses import dataclass

from dujiang.kit.journal import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSet(Event):
    """A project may hold another amount at one time; None is unlimited. Subject: the project."""

    gpu_milli: int | None
    cpu_milli: int | None
    memory_bytes: int | None
    previous: tuple[int | None, int | None, int | None]
    """The same three before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuesSet(Event):
    """The tree of queues is another. Subject: `queues`."""

    stamp: str
    """Tells one tree from another."""
    differences: tuple[str, ...]
    """What changed, as `dujiang queues apply --dry-run` writes it, projects by id; the first 200."""
    difference_count: int

"""State machines written as a table; everything else about them is derived."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Generic, TypeVar

from dujiang.kit.errors import Conflict

S = TypeVar("S", bound=StrEnum)


class IllegalTransition(Conflict):
    """The table has no such step."""

    code: ClassVar[str] = "illegal_transition"
    title: ClassVar[str] = "Not possible in this state"


class Machine(Generic[S]):
    """A transition table with its derived facts."""

    def __init__(self, name: str, transitions: Mapping[S, frozenset[S]], *, start: S) -> None:
        self.name, self.transitions, self.start = name, transitions, start
        self.terminal = frozenset(state for state, following in transitions.items() if not following)

    def check(self, subject: str, current: S, target: S) -> None:
        """Let a legal step pass.

        Raises:
            IllegalTransition: the table has no step from current to target.
        """
        if target not in self.transitions[current]:
            allowed = ", ".join(sorted(self.transitions[current])) or "nothing: it has ended"
            raise IllegalTransition(
                f"{subject} is {current} and cannot become {target}; from here it may become {allowed}.",
                state=str(current),
                target=str(target),
            )

    def legal(self, history: list[S]) -> bool:
        """Say whether a history starts at the start and takes only steps of the table."""
        if not history or history[0] is not self.start:
            return False
        return all(b in self.transitions[a] for a, b in itertools.pairwise(history))

    def mermaid(self) -> str:
        """Return the diagram for the documentation."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.start}"]
        lines += [f"    {a} --> {b}" for a, following in self.transitions.items() for b in sorted(following)]
        lines += [f"    {state} --> [*]" for state in self.transitions if state in self.terminal]
        return "\n".join(lines)

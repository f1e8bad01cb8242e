"""What must hold, what was seen instead, and waiting for it with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

LOOK_EVERY_S = 0.05
T = TypeVar("T")


class NotHeld(Exception):
    """A step did not do what it must."""

    def __init__(self, expected: str, seen: str, details: str = "") -> None:
        super().__init__(f"expected {expected}; saw {seen}")
        self.expected, self.seen, self.details = expected, seen, details
        """`details` is text of several lines that helps to find out why."""


def hold(is_so: bool, expected: str, seen: object, details: str = "") -> None:
    """Go on only when something is as it must be.

    Raises:
        NotHeld: it is not.
    """
    if not is_so:
        raise NotHeld(expected, str(seen), details)


def until(
    expected: str, look: Callable[[], T], is_so: Callable[[T], bool], *, for_s: float, every_s: float = LOOK_EVERY_S,
    tell: Callable[[T], str] = str,
) -> T:  # fmt: skip
    """Look again and again until it is so; return what was seen then.

    Args:
        expected: what is waited for, as words after "expected".
        tell: what was seen, as words.

    Raises:
        NotHeld: not so in that many seconds.
    """
    end = time.monotonic() + for_s
    while not is_so(seen := look()):
        if time.monotonic() > end:
            raise NotHeld(f"{expected} within {for_s:.0f} s", tell(seen))
        time.sleep(every_s)
    return seen


def moment(text: Any) -> datetime:
    """Return a time that the platform told."""
    return datetime.fromisoformat(str(text))


def seconds_between(earlier: Any, later: Any) -> float:
    """Return the seconds from one told time to another."""
    return (moment(later) - moment(earlier)).total_seconds()

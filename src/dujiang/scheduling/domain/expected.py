"""How long a job will run, by what is known of others like it. A guess: nothing is refused or stopped because of it.

Jobs are told apart by project, user, name and shape. Of the groups to which a job belongs the narrowest that has enough
members speaks: the median of its latest members. Members that did not run to their end (failed, cancelled, over their
limit) would have run at least as long as they did, and are counted so (Kaplan and Meier 1958).

Few and recent members say more than many old ones: people run the same thing several times in a row (Tsafrir, Etsion
and Feitelson 2007, who take the mean of a user's latest two).
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

KEPT: Final = 32
"""Members that a group remembers: the latest ones."""
LEAST: Final = 2
"""Members that a group needs to speak."""
MOST_GROUPS: Final = 50_000
"""Groups that are remembered; those that were not used for longest go first."""
_RUNS = re.compile(r"(?<![a-z])(?=[0-9a-f]*\d)[0-9a-f]{6,}(?![a-z])|\d+")


class Alike(StrEnum):
    """What the members of a group have in common, the narrowest first."""

    ALL_FOUR = "project, user, name, shape"
    PROJECT_NAME = "project, name"
    USER_SHAPE = "user, shape"
    PROJECT_SHAPE = "project, shape"
    PROJECT = "project"
    ANYTHING = "anything"


@dataclass(frozen=True, slots=True)
class Likeness:
    """By what a job is compared with others; empty is unknown."""

    project: str = ""
    user: str = ""
    name: str = ""
    """Its stem (`stem_of`)."""
    shape: str = ""
    """What each rank gets and how many there are, in any fixed words."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """How long a job is expected to run."""

    seconds: float
    alike: Alike
    """Which group said so."""
    members: int
    low_s: float
    """A quarter of the group ran shorter."""
    high_s: float
    """A tenth of the group ran longer."""


def stem_of(name: str) -> str:
    """Return a name without what tells runs apart: `train-bert-0012` and `train-bert-7` are both `train-bert-#`."""
    return _RUNS.sub("#", name.lower())


class RunTimes:
    """What is known of run times; learns as jobs end."""

    def __init__(self, *, kept: int = KEPT, least: int = LEAST, most_groups: int = MOST_GROUPS) -> None:
        self._kept, self._least, self._most = kept, least, most_groups
        self._groups: OrderedDict[tuple[str, ...], deque[tuple[float, bool]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._groups)

    def learn(self, who: Likeness, ran_s: float, *, is_whole: bool = True) -> None:
        """Take note of a job that has ended.

        Args:
            who: the job.
            ran_s: for how long it ran.
            is_whole: it ran to its end; else it would have run at least so long.
        """
        for _, key in _keys(who):
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = deque(maxlen=self._kept)
            group.append((ran_s, is_whole))
            self._groups.move_to_end(key)
        while len(self._groups) > self._most:
            self._groups.popitem(last=False)

    def expect(self, who: Likeness, *, limit_s: float | None = None) -> Expectation | None:
        """Return how long a job will run; None while nothing is known of any like it.

        Args:
            who: the job.
            limit_s: it is stopped then, so it does not run longer.
        """
        for alike, key in _keys(who):
            group = self._groups.get(key)
            if group is None or sum(whole for _, whole in group) < self._least:
                continue
            low, middle, high = quantiles(group, (0.25, 0.5, 0.9))
            most = math.inf if limit_s is None else limit_s
            return Expectation(min(middle, most), alike, len(group), min(low, most), min(high, most))
        return None


def quantiles(members: Iterable[tuple[float, bool]], wanted: Sequence[float]) -> list[float]:
    """Return quantiles of run times of which some were cut short: the least time by which that part had ended.

    Args:
        members: (seconds, ran to its end) of each; at least one.
        wanted: parts between 0 and 1, rising.

    Returns:
        One for each; the longest time of all where more than that part was still running when it was cut short.
    Source: the product-limit estimator of Kaplan and Meier, JASA 53 (1958).
    """
    ordered = sorted(members, key=lambda one: (one[0], not one[1]))
    left, running = 1.0, len(ordered)
    found: list[float] = []
    for seconds, is_whole in ordered:
        if is_whole:
            left *= (running - 1) / running
        running -= 1
        while len(found) < len(wanted) and left <= 1 - wanted[len(found)] + 1e-12:
            found.append(seconds)
    return found + [ordered[-1][0]] * (len(wanted) - len(found))


def corrected(expected_s: float, ran_s: float) -> float:
    """Return the expectation for a job that has already run so long: doubled until it is longer than that.

    It changes seldom, so a plan made on it lasts; the doubling is the correction of Tsafrir et al. 2007.
    """
    doubled = max(expected_s, 1.0)
    while doubled <= ran_s:
        doubled *= 2
    return doubled


def _keys(who: Likeness) -> Iterator[tuple[Alike, tuple[str, ...]]]:
    """Yield the groups of a job, the narrowest first; those whose words it does not know are left out."""
    project, user, name, shape = who.project, who.user, who.name, who.shape
    if project and user and name and shape:
        yield Alike.ALL_FOUR, ("a", project, user, name, shape)
    if project and name:
        yield Alike.PROJECT_NAME, ("n", project, name)
    if user and shape:
        yield Alike.USER_SHAPE, ("u", user, shape)
    if project and shape:
        yield Alike.PROJECT_SHAPE, ("s", project, shape)
    if project:
        yield Alike.PROJECT, ("p", project)
    yield Alike.ANYTHING, ("",)

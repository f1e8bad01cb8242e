"""What queues hold, what is left to each, who borrows from whom, and whose work may be told to go for whom.

A queue's work counts against itself first; what exceeds the part of its own that no other can use counts against the
queue above as well, and so on to the top (Kueue's `Usage`). So the state depends on what is held alone, not on the
order in which it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dujiang.scheduling.domain.queues import NONE4, RESOURCES, Amounts4, QueueTree
from dujiang.scheduling.domain.reasons import amount, label

Left = tuple[int | None, int | None, int | None, int | None]
"""By resource; None: not limited."""


@dataclass(frozen=True, slots=True)
class QueueLack:
    """What a queue cannot have more of."""

    queue: str
    """Whose work it is; empty when its project is in no queue."""
    flavor: str
    resource: str
    needed: int
    available: int
    """The most that the queue can have now."""
    at: str
    """Which queue stops it: itself or one above."""
    is_borrowing_limit: bool = False
    """That queue may not hold more beyond its own; else all that there is to have is in use."""

    @property
    def sentence(self) -> str:
        """Return it in words."""
        what = f"{label(self.resource)} of {self.flavor}"
        needs = f"this job needs {amount(self.resource, self.needed)}"
        if not self.queue:
            return f"Its project is in no queue, and {what} is given to queues alone; {needs}."
        left = f"Queue {self.queue} can have {amount(self.resource, self.available)} more {what}"
        if self.is_borrowing_limit:
            whose = "its" if self.at == self.queue else f"the {self.at} queue's"
            return f"{left} by {whose} borrowing limit, {needs}."
        return f"{left}" + ("" if self.at == self.queue else f", which is all that {self.at} has left") + f"; {needs}."

    @property
    def at_most(self) -> str:
        """Return it in words, where nobody holds anything: what the queue could ever have, and what bounds that."""
        what = f"{label(self.resource)} of {self.flavor}"
        needs = f"{amount(self.resource, self.needed)} {what} in all"
        if not self.queue:
            return f"{needs}, which is given to queues alone, and its project is in none"
        if self.is_borrowing_limit:
            bound = "by its borrowing_limit" if self.at == self.queue else f"by the borrowing_limit of {self.at}"
        else:
            bound = "all of its own" if self.at == self.queue else f"by what {self.at} and the queues below it have"
        return f"{needs}; queue {self.queue} can have {amount(self.resource, self.available)} at most, {bound}"


@dataclass(frozen=True, slots=True)
class Loan:
    """What a queue uses of another's."""

    lender: str
    amounts: Amounts4


class Usage:
    """What the queues of a tree hold. `copy` is two list copies; everything else O(depth), `lenders` apart.

    A flavor that is empty or not the tree's, and a queue that is not the tree's, are not counted.
    """

    __slots__ = ("_held", "_used", "moves", "tree")

    def __init__(self, tree: QueueTree) -> None:
        """Begin with nothing held."""
        self.tree = tree
        self._used = [0] * len(tree.subtree)
        """Of each queue, what counts against its `subtree`."""
        self._held = [0] * len(tree.subtree)
        """By a queue and those below it."""
        self.moves = 0
        """Grows with every change: while it stands, every answer stands."""

    def copy(self) -> Usage:
        """Return the same, to be changed apart."""
        other = Usage.__new__(Usage)
        other.tree, other._used, other._held, other.moves = self.tree, self._used.copy(), self._held.copy(), self.moves
        return other

    def take(self, queue: str, flavor: str, amounts: Amounts4) -> None:
        """Let a queue hold more, whether it fits or not."""
        self._move(queue, flavor, amounts, 1)

    def release(self, queue: str, flavor: str, amounts: Amounts4) -> None:
        """Take back what a queue holds."""
        self._move(queue, flavor, amounts, -1)

    def fits(self, queue: str, flavor: str, amounts: Amounts4) -> QueueLack | None:
        """Return the first resource that a queue cannot have so much more of; None when it can have it all.

        What asks for nothing of a resource always fits.
        """
        at = self.tree.flavor_at.get(flavor)
        if at is None:
            return None
        node = self.tree.queue_at.get(queue)
        for resource, needed in enumerate(amounts):
            if not needed or not self.tree.is_limited[at * 4 + resource]:
                continue
            if node is None:
                return QueueLack("", flavor, RESOURCES[resource], needed, 0, "")
            left, by, is_cap = self._left(node, at * 4 + resource)
            if needed > left:
                limiter = self.tree.queues[by].name
                return QueueLack(queue, flavor, RESOURCES[resource], needed, left, limiter, is_cap)
        return None

    def available(self, queue: str, flavor: str) -> Left:
        """Return how much more a queue can have of a flavor: exactly so much fits."""
        tree, at, node = self.tree, self.tree.flavor_at.get(flavor), self.tree.queue_at.get(queue)
        if at is None:
            return None, None, None, None

        def left(resource: int) -> int | None:
            if not tree.is_limited[at * 4 + resource]:
                return None
            return 0 if node is None else self._left(node, at * 4 + resource)[0]

        return left(0), left(1), left(2), left(3)

    def held(self, queue: str, flavor: str) -> Amounts4:
        """Return what a queue and those below it hold."""
        return self._figures(queue, flavor, self._held.__getitem__)

    def borrowed(self, queue: str, flavor: str) -> Amounts4:
        """Return how much a queue uses beyond what it has: its own and what those below lend it."""
        return self._figures(queue, flavor, self._beyond)

    def lent(self, queue: str, flavor: str) -> Amounts4:
        """Return how much of a queue's, or of those below it, other queues use, by the loans of `lenders`."""
        at, node = self.tree.flavor_at.get(flavor), self.tree.queue_at.get(queue)
        if node is None or at is None:
            return NONE4
        first, second, third, fourth = (self._gives(node, at * 4 + resource) for resource in range(4))
        return first, second, third, fourth

    def lenders(self, queue: str, flavor: str) -> tuple[Loan, ...]:
        """Return from whom a queue has what it borrows, by name. O(queues) at each level.

        Quota has no owner once it is pooled, so this is a rule of accounting: first what the queue above has of its
        own, then what siblings leave idle, the most idle first, then what the queue above borrows itself; borrowers
        are served in order of name.
        """
        tree, node = self.tree, self.tree.queue_at.get(queue)
        if node is None or flavor not in tree.flavor_at:
            return ()
        offset, loans = tree.flavor_at[flavor] * 4, dict[str, list[int]]()
        for resource in range(4):
            for name, size in self._sources(node, offset + resource):
                loans.setdefault(name, [0, 0, 0, 0])[resource] += size
        return tuple(Loan(name, (a, b, c, d)) for name, (a, b, c, d) in sorted(loans.items()))

    def over_guarantee(self, queue: str, flavor: str) -> Amounts4:
        """Return how much of what a queue holds is above its guarantee: work that may be told to go."""
        return self._figures(queue, flavor, self._excess)

    def counts(self, queue: str, flavor: str) -> bool:
        """Say whether anything of a flavor is limited for a queue."""
        at = self.tree.flavor_at.get(flavor)
        if at is None or queue not in self.tree.queue_at:
            return False
        return any(self.tree.is_limited[at * 4 : at * 4 + 4])

    def has_claim(self, queue: str, flavor: str, amounts: Amounts4) -> bool:
        """Say whether a queue that holds so much more of a flavor, which is limited, is still within its guarantee."""
        node, at = self.tree.queue_at.get(queue), self.tree.flavor_at.get(flavor)
        if node is None or at is None:
            return False
        asked = [at * 4 + r for r in range(4) if amounts[r] and self.tree.is_limited[at * 4 + r]]
        return bool(asked) and self._is_within(node, asked, amounts)

    def is_beyond(self, other: str, queue: str, flavor: str) -> bool:
        """Say whether a queue holds so much of a flavor that another, which has a claim, may take some of it back.

        It does when it, and every queue above it up to where the two meet, holds more than it is guaranteed: a queue
        higher up that is within its guarantee is left alone by those outside it, whatever its queues hold.
        """
        tree, at = self.tree, self.tree.flavor_at.get(flavor)
        here, there = tree.queue_at.get(other), tree.queue_at.get(queue)
        if at is None or here is None:
            return False
        shared = set(() if there is None else tree.paths[there])
        cells = [tree.cell(node, at) for node in tree.paths[here] if node not in shared]
        return all(any(self._excess(cell + resource) for resource in range(4)) for cell in cells)

    # -- figures ---------------------------------------------------------------------------------------------------

    def _move(self, queue: str, flavor: str, amounts: Amounts4, sign: int) -> None:
        tree, at, node = self.tree, self.tree.flavor_at.get(flavor), self.tree.queue_at.get(queue)
        if at is None or node is None:
            return
        self.moves += 1
        used, held, local = self._used, self._held, tree.local
        for resource, size in enumerate(amounts):
            more = whole = sign * size
            if not whole:
                continue
            for above in tree.paths[node]:
                here = tree.cell(above, at) + resource
                held[here] += whole
                assert held[here] >= 0, "a queue gave back more than it held"
                before = used[here]
                used[here] = after = before + more
                more = max(0, after - local[here]) - max(0, before - local[here])

    def _left(self, node: int, offset: int) -> tuple[int, int, bool]:
        """Return what a queue can have more, which queue limits that, and whether by its borrowing limit.

        A queue above that holds too much (its quota was lowered) leaves nothing to borrow, but takes nothing of what
        those below keep to themselves.
        """
        tree, path = self.tree, self.tree.paths[node]
        here = tree.cell(path[-1], 0) + offset
        left, by, is_cap = max(0, tree.subtree[here] - self._used[here]), path[-1], False
        for above in path[-2::-1]:
            here = tree.cell(above, 0) + offset
            used, local, cap = self._used[here], tree.local[here], tree.cap[here]
            if cap is not None:
                most = max(0, tree.subtree[here] - local - max(0, used - local) + cap)
                if most <= left:
                    left, by, is_cap = most, above, True
            left += max(0, local - used)
        return left, by, is_cap

    def _figures(self, queue: str, flavor: str, read: Callable[[int], int]) -> Amounts4:
        at, node = self.tree.flavor_at.get(flavor), self.tree.queue_at.get(queue)
        if at is None or node is None:
            return NONE4
        here = self.tree.cell(node, at)
        return read(here), read(here + 1), read(here + 2), read(here + 3)

    def _beyond(self, here: int) -> int:
        return max(0, self._used[here] - self.tree.subtree[here]) if self._counts(here) else 0

    def _is_within(self, node: int, asked: Sequence[int], amounts: Amounts4) -> bool:
        """Say whether a queue that holds so much more is within its guarantee."""
        cell, held, kept = self.tree.cell(node, 0), self._held, self.tree.guarantee
        return all(held[cell + offset] + amounts[offset % 4] <= kept[cell + offset] for offset in asked)

    def _excess(self, here: int) -> int:
        return max(0, self._held[here] - self.tree.guarantee[here]) if self._counts(here) else 0

    def _counts(self, here: int) -> bool:
        return self.tree.is_limited[here % len(self.tree.is_limited)]

    # -- loans, of one resource of one flavor ----------------------------------------------------------------------

    def _short(self, node: int, offset: int) -> int:
        return self._beyond(self.tree.cell(node, 0) + offset)

    def _idle(self, node: int, offset: int) -> int:
        """Return how much of what a queue lends is not used by itself."""
        here = self.tree.cell(node, 0) + offset
        local, used = self.tree.local[here], self._used[here]
        return max(0, self.tree.subtree[here] - local - max(0, used - local))

    def _own(self, node: int, offset: int) -> int:
        """Return what a queue has of its own, beside what those below lend it."""
        tree = self.tree
        lent = sum(
            tree.subtree[tree.cell(each, 0) + offset] - tree.local[tree.cell(each, 0) + offset]
            for each in tree.children[node]
        )
        return tree.subtree[tree.cell(node, 0) + offset] - lent

    def _pot(self, above: int, offset: int) -> list[tuple[str, int]]:
        """Return what the queues below a node can borrow together, source by source."""
        tree = self.tree
        idle = [(tree.queues[each].name, self._idle(each, offset)) for each in tree.children[above]]
        idle.sort(key=lambda one: (-one[1], one[0]))
        pot = [(tree.queues[above].name, self._own(above, offset)), *idle, *self._sources(above, offset)]
        return [(name, size) for name, size in pot if size]

    def _sources(self, node: int, offset: int) -> list[tuple[str, int]]:
        """Return from whom a queue borrows how much."""
        path, short = self.tree.paths[node], self._short(node, offset)
        if not short or len(path) == 1:
            return []
        names = self.tree.queues
        skip = sum(
            self._short(each, offset)
            for each in self.tree.children[path[1]]
            if names[each].name < names[node].name
        )  # fmt: skip
        return _cut(self._pot(path[1], offset), skip, short)

    def _gives(self, node: int, offset: int) -> int:
        """Return how much others use of what a queue lends."""
        path, name = self.tree.paths[node], self.tree.queues[node].name
        if len(path) == 1:
            return 0
        taken = sum(self._short(each, offset) for each in self.tree.children[path[1]]) + self._gives(path[1], offset)
        return sum(size for lender, size in _cut(self._pot(path[1], offset), 0, taken) if lender == name)


def _cut(pot: Iterable[tuple[str, int]], skip: int, size: int) -> list[tuple[str, int]]:
    """Return what of the sources lies between `skip` and `skip + size`, in their order."""
    found: list[tuple[str, int]] = []
    for name, has in pot:
        passed = min(skip, has)
        part = min(has - passed, size)
        skip, size = skip - passed, size - part
        if part:
            found.append((name, part))
    return found

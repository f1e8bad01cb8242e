"""Named cases and properties of the pool's decisions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.pool.domain import NODE_STATES, Intent, NodeState
from dujiang.pool.domain.nodes import state_of
from dujiang.pool.domain.sweep import LIVE, CapacityColumns, LedgerColumns, violations

S = NodeState


@pytest.mark.parametrize(
    ("expected", "facts"),
    [
        (S.READY, {}),
        (S.NOT_READY, {"ready": False}),
        (S.NOT_READY, {"ready": False, "intent": Intent.DRAIN}),
        (S.CORDONED, {"engine_cordoned": True}),
        (S.CORDONED, {"intent": Intent.OPEN, "engine_cordoned": True}),
        (S.CORDONED, {"intent": Intent.CORDON, "held": True}),
        (S.DRAINING, {"intent": Intent.DRAIN, "held": True}),
        (S.DRAINED, {"intent": Intent.DRAIN}),
        (S.NOT_READY, {"present": False}),
        (S.NOT_READY, {"present": False, "was": S.NOT_READY}),
        (S.NOT_READY, {"present": False, "was": S.NOT_READY, "long_gone": True, "held": True}),
        (S.GONE, {"present": False, "was": S.NOT_READY, "long_gone": True}),
        (S.GONE, {"present": False, "was": S.GONE}),
        (S.READY, {"was": S.GONE}),
    ],
)
def test_the_state_of_a_node_follows_from_facts_and_intent(expected: NodeState, facts: dict[str, object]) -> None:
    usual: dict[str, object] = {
        "was": S.READY, "intent": Intent.NONE, "present": True, "ready": True, "engine_cordoned": False,
        "held": False, "long_gone": False,
    }  # fmt: skip
    assert state_of(**{**usual, **facts}) is expected  # type: ignore[arg-type]


def test_every_state_that_can_be_derived_is_a_legal_step() -> None:
    both = (False, True)
    for was, intent in itertools.product(NodeState, Intent):
        for present, ready, cordoned, held, long_gone in itertools.product(both, both, both, both, both):
            # A GONE node holds nothing, and a drained one gets nothing.
            if held and was in (S.GONE, S.DRAINED):
                continue
            state = state_of(
                was=was, intent=intent, present=present, ready=ready, engine_cordoned=cordoned, held=held,
                long_gone=long_gone,
            )  # fmt: skip
            assert state is was or state in NODE_STATES.transitions[was], (was, state)


ROW = st.tuples(
    st.integers(0, 1),  # node
    st.booleans(),  # on its device
    st.integers(0, 12),  # start
    st.one_of(st.none(), st.integers(0, 6)),  # length; None is live
    st.integers(1, 1000),  # gpu_milli
    st.integers(0, 4),  # any other amount
)
CHANGE = st.tuples(st.integers(0, 1), st.booleans(), st.integers(0, 12), st.integers(0, 8))


@given(st.lists(ROW, max_size=14), st.lists(CHANGE, max_size=5))
def test_the_sweep_agrees_with_looking_at_every_start(rows: list[tuple], changes: list[tuple]) -> None:  # type: ignore[type-arg]
    # Places 0 and 1 are nodes, 2 and 3 their devices; something is there from the beginning.
    capacity = [(place, 0, 1000 if place > 1 else 0, 6, 6, 6, 6) for place in range(4)]
    capacity += [
        (node + 2 * device, at, 1000 if device else 0, size, size, size, size) for node, device, at, size in changes
    ]
    capacity.sort(key=lambda each: each[1])
    ledger = [
        (
            node, node + 2 if device else -1, start, LIVE if length is None else start + length,
            (milli, amount, 0, 0, 0) if device else (0, 0, amount, amount, 0),
        )
        for node, device, start, length, milli, amount in rows
    ]  # fmt: skip
    found = violations(_ledger(ledger), _capacity(capacity), version=1, latest=100)
    assert {each.kind for each in found} <= {"over_allocated", "no_host_row"}
    told = {each.rows[0] for each in found if each.kind == "over_allocated"}
    assert {int(row) for row in told} <= set(range(len(ledger)))
    assert bool(told) == _over_somewhere(ledger, capacity)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("malformed", (0, -1, 5, 4, (0, 0, 1, 0, 0))),
        ("malformed", (0, -1, 5, 9, (0, 0, -1, 0, 0))),
        ("malformed", (0, -1, 5, 9, (10, 0, 1, 0, 0))),
        ("malformed", (0, 2, 5, 9, (1001, 0, 0, 0, 0))),
        ("malformed", (0, 2, 5, 9, (0, 0, 0, 0, 0))),
        ("malformed", (0, 2, 5, 9, (10, 0, 1, 0, 0))),
        ("malformed", (0, -1, 101, LIVE, (0, 0, 1, 0, 0))),
        ("malformed", (0, -1, 5, 101, (0, 0, 1, 0, 0))),
        ("unknown_place", (-1, -1, 5, 9, (0, 0, 1, 0, 0))),
        ("unknown_place", (0, -2, 5, 9, (10, 0, 0, 0, 0))),
        ("over_allocated", (0, -1, 5, 9, (0, 0, 7, 0, 0))),
        ("over_allocated", (0, 2, 5, LIVE, (1, 7, 0, 0, 0))),
    ],
)
def test_a_row_that_must_not_be_is_named(kind: str, row: tuple[int, int, int, int, tuple[int, ...]]) -> None:
    sound = (1, -1, 0, 5, (0, 0, 1, 1, 1))
    capacity = _capacity([(place, 0, 1000 if place > 1 else 0, 6, 6, 6, 6) for place in range(4)])
    assert violations(_ledger([sound]), capacity, version=1, latest=100) == []
    found = violations(_ledger([sound, row]), capacity, version=1, latest=100)
    assert (kind, "1") in [(each.kind, each.rows[0]) for each in found]


def test_sums_that_pass_64_bits_are_still_told_apart() -> None:
    huge = 2**62
    capacity = _capacity([(0, 0, 0, 0, 0, huge, 0), (1, 0, 0, 0, 0, 5, 0)])
    rows = [(0, -1, t, t + 1, (0, 0, 0, huge, 0)) for t in range(8)] + [(0, -1, 9, LIVE, (0, 0, 0, huge, 0))]
    assert violations(_ledger(rows), capacity, version=1, latest=100) == []
    found = violations(_ledger([*rows, (1, -1, 3, LIVE, (0, 0, 0, 6, 0))]), capacity, version=1, latest=100)
    assert [each.rows for each in found] == [("9",)]


def test_one_rank_on_one_place_twice_at_a_time_is_found_and_one_after_the_other_is_not() -> None:
    capacity = _capacity([(place, 0, 1000, 6, 6, 6, 6) for place in range(4)])
    rows = [(0, -1, 0, 5, (0, 0, 1, 0, 0)), (0, -1, 5, 9, (0, 0, 1, 0, 0)), (0, -1, 8, 9, (0, 0, 1, 0, 0))]
    same = np.zeros(3, np.int64)
    assert violations(_ledger(rows[:2], attempt=same[:2]), capacity, version=1, latest=100) == []
    found = violations(_ledger(rows, attempt=same), capacity, version=1, latest=100)
    assert [(each.kind, each.rows) for each in found] == [("held_twice", ("2", "1"))]


def _ledger(rows: list[tuple], attempt: np.ndarray | None = None) -> LedgerColumns:  # type: ignore[type-arg]
    ended = np.array([row[3] for row in rows], np.int64)
    return LedgerColumns(
        ids=np.array([str(at).encode() for at in range(len(rows))], "S40"),
        attempt=np.arange(len(rows), dtype=np.int64) if attempt is None else attempt,
        node=np.array([row[0] for row in rows], np.int64),
        device=np.array([row[1] for row in rows], np.int64),
        started=np.array([row[2] for row in rows], np.int64),
        ended=ended,
        closed_version=np.where(ended == LIVE, -1, 1),
        amounts=np.array([row[4] for row in rows], np.int64).reshape(-1, 5),
    )


def _capacity(changes: list[tuple[int, ...]]) -> CapacityColumns:
    return CapacityColumns(
        place=np.array([change[0] for change in changes], np.int64),
        since=np.array([change[1] for change in changes], np.int64),
        amounts=np.array([change[2:] for change in changes], np.int64).reshape(-1, 5),
        names=[f"place {at}" for at in range(4)],
    )


def _over_somewhere(ledger: list[tuple], capacity: list[tuple[int, ...]]) -> bool:  # type: ignore[type-arg]
    for resource in range(5):
        column = 1 if resource < 2 else 0
        for row in ledger:
            place, at = row[column], row[2]
            if place < 0 or row[4][resource] == 0 or row[3] <= row[2]:
                continue
            load = sum(each[4][resource] for each in ledger if each[column] == place and each[2] <= at < each[3])
            limit = [change for change in capacity if change[0] == place and change[1] <= at][-1][2 + resource]
            if load > limit:
                return True
    return False

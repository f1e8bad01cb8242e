from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dujiang.models.serving.batching import Batcher, BatchQueue, Limits, RunTimes, Ticket
from dujiang.models.serving.errors import CallerGone, Overloaded

Y = ("y",)


class Doubler:
    """Doubles each row and remembers what it was asked; fails on a negative value; runs only as the test lets it."""

    def __init__(self) -> None:
        self.batchable = True
        self.sizes: list[int] = []
        self.threads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.shape_of_answer = slice(None)

    def run(self, inputs: Sequence[NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        self.entered.release()
        self.gate.wait()
        self.sizes.append(len(inputs[0]))
        self.threads.append(threading.current_thread().name)
        if (inputs[0] < 0).any():
            raise ValueError("negative")
        return [(inputs[0] * 2)[self.shape_of_answer]]


def batcher(model: Doubler, *, known_s: float = 1e-5, clock: Any = lambda: 0.0, **limits: Any) -> Batcher:
    """Return a batcher that takes runs for quick (in the loop) unless `known_s` says otherwise."""
    times = RunTimes(dict.fromkeys(range(10), known_s))
    return Batcher(model, Limits(**limits), monotonic_s=clock, times=times)


def row(*values: float) -> list[NDArray[Any]]:
    return [np.array([[value] for value in values], dtype=np.float32)]


async def entered(model: Doubler) -> None:
    await asyncio.to_thread(model.entered.acquire)


async def test_requests_of_one_loop_turn_run_together_and_get_their_own_rows() -> None:
    model = Doubler()
    queue = batcher(model)
    tickets = [queue.submit(row(i, i + 0.5), Y) for i in range(5)]
    answers = [await ticket.answer for ticket in tickets]
    assert model.sizes == [10]
    assert [answer[0].ravel().tolist() for answer in answers] == [[2 * i, 2 * i + 1] for i in range(5)]


async def test_a_lone_request_waits_for_no_clock() -> None:
    model = Doubler()
    queue = batcher(model)
    ticket = queue.submit(row(1), Y)
    turns = 0
    while not ticket.answer.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns <= 3


async def test_no_run_holds_more_rows_than_allowed_unless_one_request_does() -> None:
    model = Doubler()
    queue = batcher(model, max_rows=4)
    tickets = [queue.submit(row(*range(n)), Y) for n in (3, 3, 1, 9, 2)]
    await asyncio.gather(*(ticket.answer for ticket in tickets))
    assert model.sizes == [3, 4, 9, 2]


async def test_newcomers_gather_while_a_slow_run_is_in_flight() -> None:
    model = Doubler()
    queue = batcher(model, known_s=1.0)
    model.gate.clear()
    first = queue.submit(row(1), Y)
    await entered(model)
    rest = [queue.submit(row(i), Y) for i in range(6)]
    assert len(queue) == 6
    model.gate.set()
    await asyncio.gather(first.answer, *(ticket.answer for ticket in rest))
    assert model.sizes == [1, 6]
    assert all(name.startswith("model") for name in model.threads)
    queue.close()


async def test_only_the_guilty_request_of_a_batch_fails() -> None:
    model = Doubler()
    queue = batcher(model)
    tickets = [queue.submit(row(value), Y) for value in (1, -1, 2)]
    answers = await asyncio.gather(*(ticket.answer for ticket in tickets), return_exceptions=True)
    assert isinstance(answers[1], ValueError)
    assert [answers[i][0].item() for i in (0, 2)] == [2, 4]  # type: ignore[index]
    assert model.sizes == [3, 1, 1, 1]


async def test_a_model_that_does_not_answer_row_by_row_is_not_batched_again() -> None:
    model = Doubler()
    model.shape_of_answer = slice(0, 1)
    queue = batcher(model)
    for _ in range(2):
        tickets = [queue.submit(row(value), Y) for value in (1, 2)]
        assert [(await ticket.answer)[0].item() for ticket in tickets] == [2, 4]
    assert model.sizes == [2, 1, 1, 1, 1]


async def test_a_full_queue_refuses_and_recovers() -> None:
    model = Doubler()
    queue = batcher(model, known_s=1.0, max_waiting=2)
    model.gate.clear()
    tickets = [queue.submit(row(1), Y)]
    await entered(model)
    tickets += [queue.submit(row(1), Y) for _ in range(2)]
    with pytest.raises(Overloaded):
        queue.submit(row(1), Y)
    model.gate.set()
    await asyncio.gather(*(ticket.answer for ticket in tickets))
    assert (await queue.submit(row(4), Y).answer)[0].item() == 8
    queue.close()


async def test_who_waited_too_long_is_refused_instead_of_run() -> None:
    model, now = Doubler(), [0.0]
    queue = batcher(model, known_s=1.0, max_wait_s=5, clock=lambda: now[0])
    model.gate.clear()
    first = queue.submit(row(1), Y)
    await entered(model)
    late = queue.submit(row(2), Y)
    now[0] = 6.0
    fresh = queue.submit(row(3), Y)
    model.gate.set()
    answers = await asyncio.gather(first.answer, late.answer, fresh.answer, return_exceptions=True)
    assert isinstance(answers[1], Overloaded)
    assert answers[2][0].item() == 6  # type: ignore[index]
    assert model.sizes == [1, 1]
    queue.close()


async def test_who_left_is_not_run_and_breaks_no_batch() -> None:
    model = Doubler()
    queue = batcher(model, known_s=1.0)
    model.gate.clear()
    running = queue.submit(row(1), Y)
    await entered(model)
    tickets = [queue.submit(row(i), Y) for i in range(3)]
    running.answer.set_exception(CallerGone("left"))
    tickets[0].answer.cancel()
    tickets[1].answer.set_exception(CallerGone("left"))
    model.gate.set()
    assert (await tickets[2].answer)[0].item() == 4
    assert model.sizes == [1, 1]
    assert isinstance(running.answer.exception(), CallerGone)
    assert isinstance(tickets[1].answer.exception(), CallerGone)
    queue.close()


async def test_a_queue_of_nobody_left_goes_on() -> None:
    model = Doubler()
    queue = batcher(model, max_rows=1)
    gone = [queue.submit(row(i), Y) for i in range(3)]
    for ticket in gone:
        ticket.answer.cancel()
    assert (await queue.submit(row(5), Y).answer)[0].item() == 10
    assert model.sizes == [1]


async def test_slow_runs_leave_the_loop_free() -> None:
    model = Doubler()
    queue = batcher(model, known_s=1.0)
    model.gate.clear()
    ticket = queue.submit(row(1), Y)
    await entered(model)  # this very coroutine goes on while the model runs
    assert not ticket.answer.done()
    model.gate.set()
    await ticket.answer
    queue.close()


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(1, 6)), max_size=30),
    st.integers(1, 8),
)
def test_the_queue_hands_everyone_out_once_in_order_and_never_mixes(
    arrivals: list[tuple[str | None, int]], max_rows: int
) -> None:
    loop = asyncio.new_event_loop()
    try:
        queue = BatchQueue()
        tickets = [Ticket([], Y, 0.0, loop.create_future(), rows, key) for key, rows in arrivals]
        for ticket in tickets:
            queue.put(ticket)
        batches = []
        while batch := queue.take(max_rows):
            batches.append(batch)
        assert len(queue) == queue.rows == 0
        order = {id(ticket): index for index, ticket in enumerate(tickets)}
        numbers = [[order[id(ticket)] for ticket in batch] for batch in batches]
        assert sorted(chain.from_iterable(numbers)) == list(range(len(tickets)))
        assert [batch[0] for batch in numbers] == sorted(batch[0] for batch in numbers), "the longest waiting leads"
        for batch in batches:
            assert len({ticket.key for ticket in batch}) == 1
            assert len(batch) == 1 or (batch[0].key is not None and sum(t.rows for t in batch) <= max_rows)
        for key in "ab":
            mine = [n for batch, row_ in zip(batches, numbers, strict=True) if batch[0].key == key for n in row_]
            assert mine == sorted(mine), "nobody overtakes within a group"
    finally:
        loop.close()


def test_run_times_are_predicted_from_the_nearest_size() -> None:
    times = RunTimes()
    assert times.predict(1) == float("inf")
    times.learn(1, 0.001)
    assert times.predict(32) == pytest.approx(0.032)
    times.learn(32, 0.003)
    assert times.predict(40) == pytest.approx(0.003)
    assert times.predict(128) == pytest.approx(0.012)
    for _ in range(40):
        times.learn(1, 0.005)
    assert times.predict(1) == pytest.approx(0.005, rel=0.01)

"""Which waiting requests run together, and when: dynamic batching without a waiting window.

Decides when to run a batch, what goes into it, and on which thread. A lone request runs at once; while a batch is being
read from sockets or run, newcomers gather for the next. Leaves to the model what a run is.

The event loop is the meeting point. All sockets readable in one turn of the loop hand in their requests in that turn,
so a batch forms by itself: the flush waits until a turn brings nobody new (tens of microseconds), not for a clock.
A quick model then runs in the loop, because handing it to a thread and back costs more than it takes; a run predicted
to be slow goes to the model's own thread, so that the loop stays free to answer health checks and to read requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dujiang.models.serving.errors import Overloaded
from dujiang.models.serving.runtime import split

Tensors = Sequence[NDArray[Any]]


class Model(Protocol):
    """What can be run."""

    batchable: bool

    def run(self, inputs: Tensors, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Run once; called from one thread at a time."""
        ...


@dataclass(frozen=True)
class Limits:
    """How a model is batched."""

    max_rows: int = 32
    """In one run. Too few wastes the hardware, too many makes the first wait for the last."""
    max_waiting: int = 1024
    """Requests in the queue; more are refused at once, which is kinder than answering after they gave up."""
    max_wait_s: float = 30.0
    """A request that waited longer is refused instead of run: its caller has most likely gone."""
    inline_below_s: float = 0.005
    """A run predicted to be shorter happens in the event loop. Too high makes health checks wait, too low pays for
    a change of thread (about 0.1 ms) on every run; from 1 to 6 ms the throughput on two cores was the same."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request in the queue."""

    inputs: Tensors
    outputs: tuple[str, ...]
    arrived_s: float
    answer: asyncio.Future[list[NDArray[Any]]]
    rows: int = 1
    key: Hashable = None
    """Requests of one key may run together; None runs alone."""
    taken: bool = False


class BatchQueue:
    """Requests in order of arrival, handed out in batches that may run together."""

    def __init__(self) -> None:
        self.rows = 0
        self._waiting = 0
        self._arrivals: deque[Ticket] = deque()
        self._groups: dict[Hashable, deque[Ticket]] = {}

    def __len__(self) -> int:
        return self._waiting

    def put(self, ticket: Ticket) -> None:
        """Add at the end."""
        self._waiting += 1
        self.rows += ticket.rows
        self._arrivals.append(ticket)
        if ticket.key is not None:
            self._groups.setdefault(ticket.key, deque()).append(ticket)

    def take(self, max_rows: int) -> list[Ticket]:
        """Remove and return the longest waiting request and those that may run with it, in order of arrival.

        At most `max_rows` rows, except that one request larger than that comes alone. Empty when nobody waits.
        """
        while self._arrivals and self._arrivals[0].taken:
            self._arrivals.popleft()
        if not self._arrivals:
            return []
        head = self._arrivals[0]
        batch = [head] if head.key is None else self._take_group(head.key, max_rows)
        for ticket in batch:
            ticket.taken = True
            self.rows -= ticket.rows
        self._waiting -= len(batch)
        return batch

    def _take_group(self, key: Hashable, max_rows: int) -> list[Ticket]:
        group = self._groups[key]
        batch = [group.popleft()]
        rows = batch[0].rows
        while group and rows + group[0].rows <= max_rows:
            rows += group[0].rows
            batch.append(group.popleft())
        if not group:
            del self._groups[key]
        return batch


@dataclass(slots=True)
class RunTimes:
    """Predicts how long a run takes from the runs so far, by size: a moving average per power of two of rows."""

    seconds: dict[int, float] = field(default_factory=dict)

    def learn(self, rows: int, elapsed_s: float) -> None:
        """Take in one run."""
        size = rows.bit_length()
        known = self.seconds.get(size)
        self.seconds[size] = elapsed_s if known is None else known + 0.2 * (elapsed_s - known)

    def predict(self, rows: int) -> float:
        """Return seconds; for a size never seen, the nearest known one grown in proportion; endless when none is."""
        size = rows.bit_length()
        if size in self.seconds:
            return self.seconds[size]
        smaller = max((known for known in self.seconds if known < size), default=None)
        if smaller is not None:
            return self.seconds[smaller] * 2.0 ** (size - smaller)
        return min(self.seconds.values(), default=float("inf"))


class Batcher:
    """The queue of one model and the runs made from it. Lives on one event loop."""

    def __init__(
        self,
        model: Model,
        limits: Limits,
        *,
        monotonic_s: Callable[[], float],
        observe_batch: Callable[[int, float], None] = lambda rows, seconds: None,
        times: RunTimes | None = None,
    ) -> None:
        """Build an idle batcher.

        Args:
            monotonic_s: a clock fine enough for microseconds.
            observe_batch: hears rows and seconds of every run.
            times: what is known of the model's speed already.
        """
        self._model, self._limits = model, limits
        self._monotonic_s, self._observe_batch = monotonic_s, observe_batch
        self._times = times or RunTimes()
        self._queue = BatchQueue()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._settling = False
        self._running = False
        self._arrived = 0
        self._arrived_before = 0

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._queue)

    @property
    def is_slow(self) -> bool:
        """Whether a run of one row is slow enough to leave the event loop."""
        return self._times.predict(1) > self._limits.inline_below_s

    def submit(self, inputs: Tensors, outputs: tuple[str, ...]) -> Ticket:
        """Queue a request; its `answer` becomes the tensors of `outputs`. A request whose answer is settled is not run.

        Raises:
            Overloaded: the queue is full.
        """
        if len(self._queue) >= self._limits.max_waiting:
            raise Overloaded(f"{len(self._queue)} requests are waiting for this model already; try again shortly.")
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        rows, key = _group(inputs, outputs) if self._model.batchable else (_first_axis(inputs), None)
        ticket = Ticket(inputs, outputs, self._monotonic_s(), loop.create_future(), rows, key)
        self._queue.put(ticket)
        self._arrived += 1
        if not self._running and not self._settling:
            self._settle_soon(loop)
        return ticket

    def close(self) -> None:
        """Give the thread back. Nothing may be submitted afterwards."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _settle_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        self._settling = True
        self._arrived_before = -1
        loop.call_soon(self._settle)

    def _settle(self) -> None:
        """Run what waits once a whole turn of the loop has brought nobody new, or a batch is full."""
        assert self._loop is not None
        if self._arrived != self._arrived_before and self._queue.rows < self._limits.max_rows:
            self._arrived_before = self._arrived
            self._loop.call_soon(self._settle)
            return
        self._settling = False
        self._flush(self._loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._live(self._queue.take(self._limits.max_rows))
        if not batch:
            if len(self._queue):
                self._settle_soon(loop)
            return
        rows = sum(ticket.rows for ticket in batch)
        if self._times.predict(rows) <= self._limits.inline_below_s:
            self._deliver(batch, *self._execute(batch))
            if len(self._queue):
                self._settle_soon(loop)  # not at once: sockets and timers get their turn between two runs
            return
        self._running = True
        run = loop.run_in_executor(self._executor, self._execute, batch)
        run.add_done_callback(lambda done: self._finished(batch, done))

    def _finished(self, batch: list[Ticket], done: asyncio.Future[tuple[list[Any], float]]) -> None:
        assert self._loop is not None
        self._running = False
        if not done.cancelled():
            self._deliver(batch, *done.result())
        if len(self._queue):
            self._flush(self._loop)

    def _live(self, batch: list[Ticket]) -> list[Ticket]:
        """Drop whose caller has gone, and refuse who waited too long."""
        oldest_s = self._monotonic_s() - self._limits.max_wait_s
        live: list[Ticket] = []
        for ticket in batch:
            if ticket.answer.done():
                continue
            if ticket.arrived_s < oldest_s:
                waited = f"{self._limits.max_wait_s:g} s"
                ticket.answer.set_exception(Overloaded(f"The request waited more than {waited}; try again shortly."))
            else:
                live.append(ticket)
        return live

    def _execute(self, batch: list[Ticket]) -> tuple[list[list[NDArray[Any]] | Exception], float]:
        """Run a batch and return an answer or an error per request, and the seconds. Touches no loop: any thread."""
        started_s = self._monotonic_s()
        answers = [self._alone(batch[0])] if len(batch) == 1 else self._together(batch)
        return answers, self._monotonic_s() - started_s

    def _together(self, batch: list[Ticket]) -> list[list[NDArray[Any]] | Exception]:
        columns = zip(*(ticket.inputs for ticket in batch), strict=True)
        try:
            tensors = self._model.run([np.concatenate(column) for column in columns], batch[0].outputs)
        except Exception:
            # One request's data can fail the whole run; alone, only the guilty one fails.
            return [self._alone(ticket) for ticket in batch]
        parts = split(tensors, [ticket.rows for ticket in batch])
        if parts is None:
            self._model.batchable = False  # its outputs are not row by row, whatever it declares
            return [self._alone(ticket) for ticket in batch]
        return list(parts)

    def _alone(self, ticket: Ticket) -> list[NDArray[Any]] | Exception:
        try:
            return self._model.run(ticket.inputs, ticket.outputs)
        except Exception as error:
            return error

    def _deliver(
        self, batch: list[Ticket], answers: Sequence[list[NDArray[Any]] | Exception], elapsed_s: float
    ) -> None:
        rows = sum(ticket.rows for ticket in batch)
        self._times.learn(rows, elapsed_s)
        self._observe_batch(rows, elapsed_s)
        for ticket, answer in zip(batch, answers, strict=True):
            if ticket.answer.done():
                continue  # the caller left while it ran
            if isinstance(answer, Exception):
                ticket.answer.set_exception(answer)
            else:
                ticket.answer.set_result(answer)


def _first_axis(inputs: Tensors) -> int:
    return inputs[0].shape[0] if inputs and inputs[0].ndim else 1


def _group(inputs: Tensors, outputs: tuple[str, ...]) -> tuple[int, Hashable]:
    """Return the rows of a request and the key it shares with those it may run with."""
    rows = inputs[0].shape[0]
    if rows == 0 or any(tensor.shape[0] != rows for tensor in inputs):
        return rows, None
    return rows, (outputs, *(tensor.shape[1:] for tensor in inputs))

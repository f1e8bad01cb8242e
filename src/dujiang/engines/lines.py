"""Lines to engines: whoever asks waits for a bounded time, and the call itself is never cut off.

A call whose answer does not come `within_s` raises `Overdue` and goes on by itself. As long as it is under way the
same is not asked again (`StillAsking`, at once): the same look at a cluster, the same effect on an attempt or a node.
When its answer comes after all it is kept, and whoever asks the same next is given it. So nothing is cancelled in the
middle of an effect, nothing is done twice while its fate is unknown, and an engine that hangs holds up nobody else.

No timer runs here: `Lines.tick`, a loop of its own, looks by the platform's clock what has become overdue. Under a
clock that is turned by hand the same seed gives the same story.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, TypeVar

from dujiang.engines.answers import Answers, CallFacts
from dujiang.engines.contract import (
    Accounted,
    Accounts,
    AttemptKey,
    Capabilities,
    Engine,
    EngineRefused,
    EngineUnavailable,
    Launch,
    LogChunk,
    NodeFacts,
    Observation,
    Troubled,
    Usage,
)
from dujiang.engines.outputs import MOST_LISTED, OutputFile
from dujiang.kit import log
from dujiang.kit.clock import Clock
from dujiang.kit.loop import TickReport

T = TypeVar("T")
MOST_OVERDUE: Final = 16
"""Calls of one kind that may be under way without an answer; beyond that no further one is made."""
_logger = log.get(__name__)


class Overdue(EngineUnavailable):
    """The engine has not answered in time; the call goes on, and whether it took effect is not known yet."""


class StillAsking(Overdue):
    """The same was asked a while ago and is not answered yet; it was not asked again."""


class LateLook(dict[AttemptKey, Observation]):
    """What a look shows whose answer came late: what it leaves out may be there by now."""


@dataclass(eq=False, slots=True)
class _Flight:
    """A call under way."""

    call: str
    same: object
    """What it was asked with, where an answer to something else would be none."""
    asked_s: float
    asked_at: datetime
    answer: asyncio.Future[Any]
    """What the one who asked waits for."""
    is_kept: bool
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nobody need wait any longer: it is over, or overdue."""
    is_overdue: bool = False
    task: asyncio.Future[None] | None = None


@dataclass(frozen=True, slots=True)
class _Late:
    """An answer that came when nobody waited for it any more."""

    same: object
    value: Any
    error: Exception | None
    at_s: float


class Line:
    """An engine behind its line; asked as the engine itself is."""

    kind: ClassVar[str] = "line"

    def __init__(
        self, cluster: str, engines: Mapping[str, Engine], *, clock: Clock, within_s: float,
        heard: Callable[[str, str, float], None], news: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Take the name of the cluster, and what `Lines` takes."""
        self.cluster, self._engines, self.engine_kind = cluster, engines, engines[cluster].kind
        self._clock, self._within_s, self._heard, self._news = clock, within_s, heard, news
        self._flights: dict[tuple[str, object], _Flight] = {}
        self._late: dict[tuple[str, object], _Late] = {}
        self._overdue: Counter[str] = Counter()
        self.answers = Answers(within_s)

    @property
    def engine(self) -> Engine:
        """Return the engine itself.

        Raises:
            EngineUnavailable: there is none by this name any more.
        """
        if (engine := self._engines.get(self.cluster)) is None:
            raise EngineUnavailable(f'The cluster "{self.cluster}" is not configured any more.')
        return engine

    # -- how it stands ---------------------------------------------------------------------------------------------

    def facts(self) -> list[CallFacts]:
        """Return how it stands with each kind of call, in order of name."""
        overdue: dict[str, list[tuple[float, datetime]]] = {}
        for flight in self._flights.values():
            if flight.is_overdue:
                overdue.setdefault(flight.call, []).append((flight.asked_s, flight.asked_at))
        now_s = self._clock.monotonic_s()
        kinds = sorted(self.answers.kinds | overdue.keys())
        return [self.answers.facts(call, overdue.get(call, ()), now_s) for call in kinds]

    def is_submitting(self, key: AttemptKey) -> bool:
        """Say whether the engine was given an attempt and it is not known what became of that."""
        return ("submit", key) in self._flights

    def expire(self) -> int:
        """Let nobody wait any longer for what is overdue; return how many calls became so."""
        now_s, found = self._clock.monotonic_s(), 0
        for flight in self._flights.values():
            if flight.is_overdue or now_s - flight.asked_s < self._within_s:
                continue
            flight.is_overdue = True
            self._overdue[flight.call] += 1
            found += 1
            flight.turn.set()
            if not flight.answer.done():
                flight.answer.set_exception(Overdue(
                    f"It has not answered for {self._within_s:g} s ({flight.call}); the call goes on, and its answer "
                    "is taken when it comes."
                ))  # fmt: skip
        stale = [slot for slot, late in self._late.items() if now_s - late.at_s > self._within_s]
        for slot in stale:
            del self._late[slot]
        return found

    # -- the protocol ----------------------------------------------------------------------------------------------

    async def capabilities(self) -> Capabilities:
        """Ask what the engine can keep."""
        return (await self._ask("capabilities", None, lambda: self.engine.capabilities()))[0]

    async def inventory(self) -> Sequence[NodeFacts]:
        """Ask for every node."""
        return (await self._ask("inventory", None, lambda: self.engine.inventory()))[0]

    async def submit(self, launch: Launch) -> None:
        """Give the engine an attempt."""
        await self._ask("submit", launch.key, lambda: self.engine.submit(launch))

    async def observe(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Observation]:
        """Ask what is seen of attempts; an answer that came late is a `LateLook`."""
        wanted = list(keys)
        seen, is_late = await self._ask(
            "observe", None, lambda: self.engine.observe(wanted), same=frozenset(wanted), fits=_overlap
        )
        return LateLook((key, seen[key]) for key in wanted if key in seen) if is_late else seen

    async def usage(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Usage]:
        """Ask what attempts use."""
        wanted = list(keys)
        found, is_late = await self._ask("usage", None, lambda: self.engine.usage(wanted))
        return {key: found[key] for key in wanted if key in found} if is_late else found

    async def signal(self, key: AttemptKey, number: int) -> None:
        """Ask for a signal."""
        await self._ask("signal", key, lambda: self.engine.signal(key, number), same=number)

    async def cancel(self, key: AttemptKey, *, grace_s: float | None = None) -> None:
        """Ask for an attempt's stop."""
        await self._ask("cancel", key, lambda: self.engine.cancel(key, grace_s=grace_s), same=grace_s)

    async def logs(
        self, key: AttemptKey, *, rank: int = 0, offset: int = 0, follow: bool = False
    ) -> AsyncIterator[LogChunk]:
        """Ask for output, piece by piece; what is followed is waited for without a bound."""
        chunks = self.engine.logs(key, rank=rank, offset=offset, follow=follow)
        if follow:
            async for chunk in chunks:
                yield chunk
            return

        async def following() -> LogChunk | None:
            return await anext(chunks, None)

        while (piece := (await self._ask("logs", (key, rank), following, is_kept=False))[0]) is not None:
            yield piece

    async def outputs(self, key: AttemptKey, *, prefix: str = "", most: int = MOST_LISTED) -> Sequence[OutputFile]:
        """Ask for the files of an output folder."""
        listed = await self._ask(
            "outputs", key, lambda: self.engine.outputs(key, prefix=prefix, most=most), same=(prefix, most)
        )
        return listed[0]

    async def output(self, key: AttemptKey, path: str, *, offset: int = 0, most_bytes: int) -> AsyncIterator[bytes]:
        """Ask for a file of an output folder, piece by piece."""
        pieces = self.engine.output(key, path, offset=offset, most_bytes=most_bytes)

        async def following() -> bytes:
            return await anext(pieces, b"")

        while piece := (await self._ask("output", (key, path), following, is_kept=False))[0]:
            yield piece

    async def cordon(self, node: str, reason: str) -> None:
        """Ask for a node to be closed."""
        await self._ask("order", node, lambda: self.engine.cordon(node, reason), same=(True, reason))

    async def uncordon(self, node: str) -> None:
        """Ask for a node to be opened; not before it is known what became of an order to close it."""
        await self._ask("order", node, lambda: self.engine.uncordon(node), same=(False, ""))

    async def drain(self, node: str, reason: str, *, grace_s: float | None = None) -> None:
        """Ask for a node to be emptied."""
        await self._ask("order", node, lambda: self.engine.drain(node, reason, grace_s=grace_s), same=(grace_s, reason))

    def trouble(self) -> str:
        """Return what is the matter with the cluster by its engine, though it answers; empty when nothing is."""
        engine = self._engines.get(self.cluster)
        return engine.trouble() if isinstance(engine, Troubled) else ""

    async def attempts(self) -> Sequence[AttemptKey]:
        """Ask for every attempt that the engine knows."""
        return (await self._ask("attempts", None, lambda: self.engine.attempts()))[0]

    async def accounted(self, since: datetime, until: datetime) -> Sequence[Accounted]:
        """Ask what the cluster's own accounts say of attempts.

        Raises:
            EngineRefused: it keeps none.
        """
        engine = self.engine
        if not isinstance(engine, Accounts):
            raise EngineRefused(
                f'The cluster "{self.cluster}" ({engine.kind}) keeps no accounts of its own: there is nothing to'
                " compare the ledger with."
            )
        return (await self._ask("accounted", (since, until), lambda: engine.accounted(since, until)))[0]

    async def forget(self, key: AttemptKey) -> None:
        """Ask for an attempt's record to be dropped."""
        await self._ask("forget", key, lambda: self.engine.forget(key))

    async def changed(self, timeout_s: float) -> bool:
        """Wait for news; whoever does that has nothing else to do, and no bound is needed."""
        return await self.engine.changed(timeout_s)

    async def close(self) -> None:
        """Cut off what is under way, as the end of the process would, and let go of the engine."""
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.engine.close()

    # -- calls -----------------------------------------------------------------------------------------------------

    async def _ask(
        self, call: str, whom: object, ask: Callable[[], Awaitable[T]], *, same: object = None,
        fits: Callable[[Any, Any], bool] = lambda before, now: bool(before == now), is_kept: bool = True,
    ) -> tuple[T, bool]:  # fmt: skip
        """Make a call, or take the answer that came late to the same one; say whether it was late.

        Args:
            call: its kind.
            whom: what of the cluster it is about; one call of a kind about one thing is under way at a time.
            ask: makes it.
            same: what it is asked with.
            fits: says whether the late answer to what was asked before is one to what is asked now.
            is_kept: whether an answer that comes late is worth something.

        Raises:
            Overdue: no answer in time.
            StillAsking: the same, or too much else of the kind, is without an answer already.
        """
        slot = (call, whom)
        while (under_way := self._flights.get(slot)) is not None:
            if under_way.is_overdue:
                raise StillAsking(f"It was asked at {under_way.asked_at:%H:%M:%S} UTC ({call}) and has not answered.")
            await under_way.turn.wait()
        now_s = self._clock.monotonic_s()
        late = self._late.get(slot)
        if late is not None and fits(late.same, same):
            del self._late[slot]
            if now_s - late.at_s <= self._within_s:
                if late.error is not None:
                    raise late.error
                return late.value, True
        if self._overdue[call] >= MOST_OVERDUE:
            raise StillAsking(f"{MOST_OVERDUE} calls ({call}) are without an answer; no further one is made.")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        flight = _Flight(call, same, now_s, self._clock.now(), answer, is_kept)
        self._flights[slot] = flight
        flight.task = asyncio.ensure_future(self._fly(slot, flight, ask))
        return await answer, False

    async def _fly(self, slot: tuple[str, object], flight: _Flight, ask: Callable[[], Awaitable[Any]]) -> None:
        value: Any = None
        error: Exception | None = None
        try:
            value = await ask()
        except asyncio.CancelledError:
            self._over(slot, flight)
            flight.answer.cancel()
            raise
        except Exception as raised:  # whoever asked is told, now or later
            error = raised
        self._over(slot, flight)
        now_s = self._clock.monotonic_s()
        if isinstance(error, EngineUnavailable):
            self.answers.failed(flight.call, error.sentence, now_s)
        else:
            self.answers.answered(flight.call, flight.asked_s, now_s)
            self._heard(self.cluster, flight.call, now_s - flight.asked_s)
        if not flight.answer.done():
            if error is None:
                flight.answer.set_result(value)
            else:
                flight.answer.set_exception(error)
            return
        if flight.is_kept and not isinstance(error, EngineUnavailable):
            self._late[slot] = _Late(flight.same, value, error, now_s)
        _logger.warning(
            "an answer came late", cluster=self.cluster, call=flight.call, took_s=round(now_s - flight.asked_s, 1),
            error=log.reason(error) if error is not None else "",
        )  # fmt: skip
        self._news(self.cluster)

    def _over(self, slot: tuple[str, object], flight: _Flight) -> None:
        del self._flights[slot]
        if flight.is_overdue:
            self._overdue[flight.call] -= 1
        flight.turn.set()


class Lines(Mapping[str, Line]):
    """The lines to all clusters, by name."""

    def __init__(
        self, clusters: Mapping[str, Engine], *, clock: Clock, within_s: float,
        heard: Callable[[str, str, float], None] = lambda _cluster, _call, _seconds: None,
        news: Callable[[str], None] = lambda _cluster: None,
    ) -> None:  # fmt: skip
        """Take the engines.

        Args:
            clusters: engines by the name of their cluster.
            clock: the time.
            within_s: how long anyone waits for an answer.
            heard: told of each answer: cluster, kind of call, seconds.
            news: told of a cluster whose late answer came, or that became overdue.
        """
        self._news = news
        self._lines = {
            name: Line(name, clusters, clock=clock, within_s=within_s, heard=heard, news=news)
            for name in sorted(clusters)
        }

    def __getitem__(self, name: str) -> Line:
        return self._lines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    async def tick(self) -> TickReport:
        """Let nobody wait any longer for answers that are overdue."""
        found = 0
        for name, line in self._lines.items():
            if overdue := line.expire():
                _logger.warning("an engine does not answer in time", cluster=name, calls=overdue)
                self._news(name)
                found += overdue
        return TickReport({"overdue": found} if found else {})


def _overlap(before: frozenset[AttemptKey], now: frozenset[AttemptKey]) -> bool:
    return not before.isdisjoint(now)

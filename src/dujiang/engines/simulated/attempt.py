"""One virtual attempt from submission to end: what each of its programs does in time, and when the engine sees it.

A state machine over integer microseconds; `advance` carries it over every moment that has passed, in order, so that the
story is the same however seldom somebody looks. What happened first decides the end, and a stop sends what the local
engine sends: the save signal at once, SIGTERM at half of the grace, SIGKILL at its end; the other ranks of a failed one
get SIGTERM at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from dujiang.engines.contract import AttemptKey, End, Evidence, Launch, Observation, Phase, Usage
from dujiang.engines.simulated.output import TAG, epochs_done, printed, saved_after_s
from dujiang.engines.simulated.program import FOREVER, Program, Script
from dujiang.engines.simulated.truth import Run
from dujiang.kit.clock import from_micros

SECOND: Final = 1_000_000
LIMITS_BY: Final = "simulated"
_SIBLING_GRACE = 5 * SECOND
_KILL, _TERM = 9, 15
_HARMLESS = frozenset({0, 17, 18, 19, 20, 21, 22, 23, 28})
"""CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH: none of them ends a program."""


@dataclass(slots=True)
class Rank:
    """The program of one rank."""

    ends: int | None = None
    """When it will have ended, if nothing comes between; None is never."""
    saving: bool = False
    died: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    finished: bool = False
    """It ended as it does when left alone."""

    @property
    def failed(self) -> bool:
        """Say whether it died of anything but exit code 0."""
        return self.died is not None and self.exit_code != 0


@dataclass(slots=True)
class Stop:
    """A stop under way."""

    end: End | None
    """What the attempt's end is called for it; None where the other ranks of a failed one are stopped."""
    begun: int
    deadline: int
    saves: bool
    """A save signal was sent first."""
    terminated: bool = False

    @property
    def terminate_at(self) -> int:
        """Return when SIGTERM is due."""
        return self.begun + (self.deadline - self.begun) // 2 if self.saves else self.begun


@dataclass(slots=True)
class Attempt:
    """One attempt. Times are microseconds of the world."""

    launch: Launch
    script: Script
    run: Run
    seed: int
    arrived: int
    starts: int
    """When its first process is due."""
    ports: tuple[int, ...] = ()
    released: bool = False
    ranks: list[Rank] = field(default_factory=list)
    stop: Stop | None = None
    first_failed: int | None = None
    lost: End | None = None
    """Its node or its supervisor is gone, which the engine has not noticed yet: nothing that it is asked reaches it."""
    notice: int = 0
    """When the engine will notice."""
    ended: int | None = None
    """When the engine saw its end."""
    ended_rank: int | None = None
    forgotten: int | None = None
    evidence: list[tuple[str, str, int]] = field(default_factory=list)
    wake: int | None = None
    """For which moment the world has it on its list."""
    _views: dict[Phase, Observation] = field(default_factory=dict)

    @property
    def key(self) -> AttemptKey:
        """Return whose attempt it is."""
        return self.launch.key

    def next_at(self) -> int | None:
        """Return the next moment at which something happens by itself; None is never."""
        if self.ended is not None:
            return None
        times = [rank.ends for rank in self.ranks if rank.ends is not None and rank.died is None]
        if self.lost is not None:
            return min([*times, self.notice])
        if self.run.started is None:
            return self.starts
        if self.stop is not None:
            times.append(self.stop.deadline if self.stop.terminated else self.stop.terminate_at)
        elif self.launch.time_limit_s is not None:
            times.append(self._limit_at())
        return min(times, default=None)

    def advance(self, now: int) -> None:
        """Carry it to a moment."""
        while (at := self.next_at()) is not None and at <= now:
            self._happen(at)

    # -- from outside -------------------------------------------------------------------------------------------------

    def ask_stop(self, grace: int, now: int) -> None:
        """Begin to stop it because the platform asked; again, a shorter grace shortens."""
        self._stop(End.STOPPED, grace, now)
        self.advance(now)

    def deliver(self, number: int, now: int) -> None:
        """Send a signal to the program of every rank."""
        if self.lost is None and self.ended is None:
            for rank, program in zip(self.ranks, self.script.ranks, strict=False):
                _signal(rank, program, number, now)
            self._settle(now)
            self.advance(now)

    def kill(self, rank: int, now: int) -> None:
        """Kill the program of one rank, as somebody on its node might."""
        if self.ended is None and rank < len(self.ranks):
            _die(self.ranks[rank], now, signal=_KILL)
            self._settle(now)
            self.advance(now)

    def notice_by(self, at: int, now: int) -> None:
        """Have the engine notice the loss of a node no later than at a moment."""
        if self.lost is End.NODE_LOST:
            self.notice = min(self.notice, at)
            self.advance(now)

    def lose(self, end: End, notice: int, now: int, *, node: str | None = None) -> None:
        """Lose its supervisor, or a node with all that runs there."""
        if self.ended is not None:
            return
        if node is not None:
            for rank, placed in zip(self.ranks, self.launch.ranks, strict=False):
                if placed.node == node:
                    _die(rank, now)
        self.notice = notice if self.lost is None else min(self.notice, notice)
        self.lost = end if self.lost is None else End.NODE_LOST
        self._settle(now)
        self.advance(now)

    def release(self, now: int) -> None:
        """Let its programs go on that wait for the world's release."""
        self.released = True
        for rank, program in zip(self.ranks, self.script.ranks, strict=False):
            if program.until_released and rank.ends is None:
                rank.ends = now
        self.advance(now)

    # -- what is seen -------------------------------------------------------------------------------------------------

    def seen(self, at: int) -> Observation | None:
        """Return what the engine saw, or sees, at a moment that is not later than now."""
        if at < self.arrived or (self.forgotten is not None and self.forgotten <= at):
            return None
        if self.ended is not None and self.ended <= at:
            return self._view(Phase.ENDED)
        started = self.run.started
        return self._view(Phase.PENDING if started is None or at < started else Phase.RUNNING)

    def output(self, rank: int, now: int) -> bytes:
        """Return what a rank has printed."""
        if rank < 0 or rank >= len(self.ranks) or self.run.started is None:
            return b""
        one = self.ranks[rank]
        return printed(
            self.launch, self.script.ranks[rank], rank, seed=self.seed, ran_s=self._ran_s(one, now),
            finished=one.finished, saved=one.saving and one.died is not None and one.exit_code is not None,
        )  # fmt: skip

    def usage(self, now: int) -> Usage | None:
        """Return what it uses; None while it does not run."""
        if self.ended is not None or self.lost is not None or not self.ranks:
            return None
        parts = [
            program.use if rank.died is None and self._ran_s(rank, now) < program.idle_after_s else 0.0
            for rank, program in zip(self.ranks, self.script.ranks, strict=True)
        ]
        use = sum(parts) / len(parts)
        has_devices = any(placed.devices for placed in self.launch.ranks)
        saved_s = None
        if self.launch.checkpoint is not None:
            saved_s = saved_after_s(self.script.ranks[0], self._ran_s(self.ranks[0], now))
        saved_at = None if saved_s is None else from_micros((self.run.started or 0) + int(saved_s * SECOND))
        return Usage(self.key, from_micros(now), use if has_devices else None, use, saved_at)

    def epochs_saved(self) -> int:
        """Return how much of the job's work is done and saved, for the attempt after this one."""
        if not self.ranks or self.launch.checkpoint is None:
            return self.script.ranks[0].done_before
        return epochs_done(self.script.ranks[0], self._ran_s(self.ranks[0], self.run.finished or 0))

    def _ran_s(self, rank: Rank, now: int) -> float:
        return max(0, (now if rank.died is None else rank.died) - (self.run.started or 0)) / SECOND

    def _view(self, phase: Phase) -> Observation:
        if phase not in self._views:
            self._views[phase] = self._observation(phase)
        return self._views[phase]

    def _observation(self, phase: Phase) -> Observation:
        run, node = self.run, self.launch.ranks[0].node
        seen = Observation(
            self.key, phase, node, started_at=None if phase is Phase.PENDING else run.started_at, ports=self.ports,
            host=f"{node}.invalid",  # resolves nowhere: no request meant for a virtual service reaches a real one
            limits_by=LIMITS_BY, workdir=self.launch.workdir or "",
        )  # fmt: skip
        if self.ended is None or phase is not Phase.ENDED:
            return seen
        evidence = tuple(Evidence(source, TAG + line, from_micros(at)) for source, line, at in self.evidence)
        return replace(
            seen, finished_at=from_micros(self.ended), end=run.end, exit_code=run.exit_code, signal=run.signal,
            rank=self.ended_rank, evidence=evidence, facts={"simulated": True},
        )  # fmt: skip

    # -- what happens -------------------------------------------------------------------------------------------------

    def _happen(self, at: int) -> None:
        if self.run.started is None and self.lost is None:
            self._start(at)
        for rank, program in zip(self.ranks, self.script.ranks, strict=False):
            if rank.ends is not None and rank.ends <= at and rank.died is None:
                _end_by_itself(rank, program, at)
        if self.lost is not None and self.notice <= at:
            self._bury(at)
        self._settle(at)
        if self.ended is None and self.lost is None and self.run.started is not None:
            if self.launch.time_limit_s is not None and at >= self._limit_at():
                self._stop(End.TIME_LIMIT, round(self.launch.grace_s * SECOND), at)
            self._send_what_is_due(at)
            self._settle(at)

    def _start(self, at: int) -> None:
        run = self.run
        run.started = at
        if self.script.setup_exit:
            run.exit_code, self.ended_rank = self.script.setup_exit, 0
            self.evidence.append(("supervisor", f"the setup exited with {self.script.setup_exit}", at))
            self._end(End.SETUP_FAILED, at)
            return
        run.starts += 1
        for program in self.script.ranks:
            waits = program.until_released and not self.released
            forever = program.duration_s == FOREVER and not program.until_released
            length = 0 if program.until_released else program.duration_s
            self.ranks.append(Rank(None if waits or forever else at + round(length * SECOND)))

    def _settle(self, at: int) -> None:
        """Draw the consequences of deaths: a rank that failed stops the others, and the last one ends the attempt."""
        if self.ended is not None or not self.ranks:
            return
        alive = [rank for rank in self.ranks if rank.died is None]
        if self.lost is not None:  # nobody is there to draw them; what is gone is gone all the same
            self.run.finished = None if alive else at
            return
        if self.stop is None and self.first_failed is None:
            self.first_failed = next((number for number, rank in enumerate(self.ranks) if rank.failed), None)
            if self.first_failed is not None and alive:
                self.evidence.append(("supervisor", f"rank {self.first_failed} failed: the others are stopped", at))
                self._stop(None, min(round(self.launch.grace_s * SECOND), _SIBLING_GRACE), at)
                self._send_what_is_due(at)
                alive = [rank for rank in self.ranks if rank.died is None]
        if not alive and self.ended is None:
            self._finish(at)

    def _stop(self, end: End | None, grace: int, at: int) -> None:
        if self.ended is not None or self.lost is not None:
            return
        if self.stop is not None:
            if end is End.STOPPED:
                self.stop.deadline = min(self.stop.deadline, at + max(0, grace))
            return
        if end is End.TIME_LIMIT:
            self.evidence.append(("supervisor", f"ran longer than its limit of {self.launch.time_limit_s:g} s", at))
        save = self.launch.checkpoint.signal if self.launch.checkpoint and end is not None else None
        saves = save is not None and save not in (_TERM, _KILL)
        self.stop = Stop(end, at, at + max(0, grace), saves)
        if self.run.started is None:
            self._end(end or End.STOPPED, at)
        elif saves and save is not None:
            for rank, program in zip(self.ranks, self.script.ranks, strict=True):
                _signal(rank, program, save, at)
        self._settle(at)

    def _send_what_is_due(self, at: int) -> None:
        stop = self.stop
        if stop is None or self.ended is not None:
            return
        if at >= stop.terminate_at and not stop.terminated:
            stop.terminated = True
            for rank, program in zip(self.ranks, self.script.ranks, strict=True):
                _signal(rank, program, _TERM, at)
        if at >= stop.deadline:
            for rank in self.ranks:
                _die(rank, at, signal=_KILL)

    def _finish(self, at: int) -> None:
        run = self.run
        number = self.first_failed if self.first_failed is not None else 0
        rank = self.ranks[number]
        run.exit_code, run.signal, self.ended_rank = rank.exit_code, rank.signal, number
        if rank.failed:
            how = f"exited with {rank.exit_code}" if rank.signal is None else f"died of signal {rank.signal}"
            self.evidence.append(("supervisor", f"rank {number} {how}", at))
        if rank.out_of_memory:
            limit = self.launch.ranks[number].memory_bytes
            self.evidence.append(("limit-group", f"oom_kill 1: rank {number} took more than {limit} bytes", at))
        if self.stop is not None and self.stop.end is not None:
            self._end(self.stop.end, at)
        elif rank.out_of_memory:
            self._end(End.OUT_OF_MEMORY, at)
        else:
            self._end(End.EXITED if rank.signal is None else End.SIGNALED, at)

    def _bury(self, at: int) -> None:
        """End what the engine finds without a node or a supervisor; what still runs is killed first."""
        assert self.lost is not None
        for rank in self.ranks:
            _die(rank, at, signal=_KILL)
        why = "a node of it went away" if self.lost is End.NODE_LOST else "its supervisor was killed"
        self.evidence.append(("engine", why, at))
        self._end(self.lost, at)

    def _end(self, end: End, at: int) -> None:
        self.ended, self.run.end = at, end
        if self.run.started is not None:
            self.run.finished = max((rank.died for rank in self.ranks if rank.died is not None), default=at)

    def _limit_at(self) -> int:
        assert self.launch.time_limit_s is not None
        return (self.run.started or 0) + round(self.launch.time_limit_s * SECOND)


def _signal(rank: Rank, program: Program, number: int, at: int) -> None:
    if number == _KILL:
        _die(rank, at, signal=_KILL)
    elif rank.died is not None or rank.saving:
        return  # what saves itself goes on with that
    elif number == program.saves_on:
        rank.saving, rank.ends = True, at + round(program.save_s * SECOND)
    elif not program.stubborn and number not in _HARMLESS:
        _die(rank, at, signal=number)


def _end_by_itself(rank: Rank, program: Program, at: int) -> None:
    if rank.saving:
        _die(rank, at, exit_code=program.saved_exit)
        return
    rank.finished, rank.out_of_memory = True, program.out_of_memory
    if program.out_of_memory or program.signal is not None:
        _die(rank, at, signal=_KILL if program.out_of_memory else program.signal)
    else:
        _die(rank, at, exit_code=program.exit_code)


def _die(rank: Rank, at: int, *, exit_code: int | None = None, signal: int | None = None) -> None:
    if rank.died is None:
        rank.died, rank.exit_code, rank.signal = at, exit_code, signal

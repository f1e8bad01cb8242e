"""Finds out what an attempt does: by its files, and by Slurm where they say nothing.

Nothing is called lost because a view lags. A job that `squeue` does not show is asked for by its number; one that is
over without a file of its end is given `facts_lag_s` for the file to come; only then the end is written by us, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dujiang.engines.contract import AttemptKey, End, EngineUnavailable, Evidence, Observation, Phase
from dujiang.engines.slurm import words
from dujiang.engines.slurm.controller import Controller, Job
from dujiang.engines.slurm.folder import Folder, WorkDir
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.kit.clock import Clock, from_micros, to_micros

_OVERDUE_S = 30.0
"""How long after a stop's grace Slurm is told to cancel a job whose runner did not carry it out."""


class Observer:
    """What is seen of attempts, and what was seen of Slurm's queue just before."""

    def __init__(self, work: WorkDir, slurm: Controller, settings: SlurmSettings, clock: Clock) -> None:
        self._work, self._slurm, self._settings, self._clock = work, slurm, settings, clock
        self._ended: dict[AttemptKey, Observation] = {}
        self._launches: dict[AttemptKey, dict[str, Any]] = {}
        self._jobs: dict[str, Job] = {}
        self._jobs_at_s = -1e9
        self._asking = asyncio.Lock()
        self._gone_at_s: dict[AttemptKey, float] = {}
        self._due_s: dict[AttemptKey, float] = {}
        self._alive_us: dict[AttemptKey, int] = {}
        self._stamps: dict[AttemptKey, Any] = {}
        self._news = asyncio.Event()

    async def look(self, key: AttemptKey, asked_s: float | None = None) -> Observation | None:
        """Return what is seen of an attempt, None when there is nothing.

        Args:
            key: of the attempt.
            asked_s: when it was asked for, with others: a queue that takes longer than `poll_s` to list is listed once
                for all of them, not once for each. None is now.

        Raises:
            EngineUnavailable: only Slurm could tell, and it does not answer.
        """
        if key in self._ended:
            return self._ended[key]
        folder = self._work.attempt(key)
        if not self._work.is_known(key):
            return None
        self._stamps[key] = self._stamp(key)
        if (end := folder.read("verdict")) is not None:
            return self._end(key, folder, end)
        end, started = folder.read("end"), folder.read("started")
        if started is not None:
            folder.spend()
        if end is not None and folder.is_ours and not words.is_open(end):
            return self._end(key, folder, end)
        asked_s = self._clock.monotonic_s() if asked_s is None else asked_s
        return await self._ask_slurm(key, folder, end, started, asked_s)

    async def _ask_slurm(
        self, key: AttemptKey, folder: Folder, end: dict[str, Any] | None, started: dict[str, Any] | None,
        asked_s: float,
    ) -> Observation | None:  # fmt: skip
        claim = folder.read("claim")
        kept = (claim or {}).get("verdict")
        if kept is not None and folder.is_ours:
            return self._verdict(key, folder, kept)
        number = (folder.read("job") or {}).get("job") or await self.adopt(key)
        if not number and claim is None:
            return None  # written down and never taken by Slurm, as far as is known: the platform asks again
        job = await self._job(str(key), number or (claim or {}).get("job", ""), asked_s)
        if claim is not None and job.state in words.WAITS:
            job = await self._slurm.job(job.number)  # the queue may be older than the claim
        if claim is not None and job.state in words.WAITS:
            # Kept from starting, or requeued by hand: it must not run again, and would not.
            await self._slurm.cancel(job.number, folder.run_as)
            if kept is not None:
                return self._alive(key, folder, started)
            why = "Slurm requeued the job, and an attempt runs once"
            end = {**end, "evidence": [*end["evidence"], ["engine", why, self._now_us()]]} if end else None
            return self._verdict(key, folder, end or _ended_as(str(End.LOST), why, self._now_us()))
        if not words.is_over(job.state):
            await self._see_to_stop(key, job, folder.run_as)
            self._gone_at_s.pop(key, None)
            self._alive_us[key] = self._now_us()
            return self._alive(key, folder, started, job)
        if kept is not None:
            return self._verdict(key, folder, kept)
        now_s = self._clock.monotonic_s()
        if end is None and now_s - self._gone_at_s.setdefault(key, now_s) < self._settings.facts_lag_s:
            return self._alive(key, folder, started)
        return self._judge(key, folder, end, job)

    def _judge(self, key: AttemptKey, folder: Folder, end: dict[str, Any] | None, job: Job) -> Observation:
        """Write the end of an attempt whose job is over: the runner's word with Slurm's, or Slurm's alone."""
        end = end or folder.read("end")
        if end is not None and not folder.is_ours:  # it did not end before Slurm last showed it as alive
            end = {**end, "at": max(int(end["at"]), self._alive_us.get(key, 0))}
        if end is not None:
            return self._verdict(key, folder, words.closed(end, job.state) if words.is_open(end) else end)
        never = self._told(words.end_of(job.state, began=False), "it never started", job)
        if folder.once("claim", {"by": "platform", "verdict": never}):
            return self._verdict(key, folder, never)
        return self._verdict(
            key, folder, self._told(words.end_of(job.state, began=True), "it left no word of its end", job)
        )

    def _told(self, end: End, why: str, job: Job) -> dict[str, Any]:
        told = _ended_as(str(end), why, self._now_us())
        return {**told, "evidence": [*told["evidence"], words.said(job.state, job.more)]}

    def keep_from_starting(self, key: AttemptKey) -> bool:
        """Take the claim of an attempt that nothing has started, so that nothing ever will; False when it began."""
        folder = self._work.attempt(key)
        stopped = _ended_as(str(End.STOPPED), "it was stopped before Slurm started it", self._now_us())
        folder.once("claim", {"by": "platform", "verdict": stopped})
        claim = folder.read("claim") or {}
        if claim.get("verdict") is None:
            return False
        if folder.is_ours:
            self._verdict(key, folder, claim["verdict"])
        self.news()
        return True

    def _verdict(self, key: AttemptKey, folder: Folder, end: dict[str, Any]) -> Observation:
        folder.once("verdict", end)
        return self._end(key, folder, folder.read("verdict") or end)

    def _end(self, key: AttemptKey, folder: Folder, end: dict[str, Any]) -> Observation:
        self._ended[key] = _observation(key, self._launch(key, folder), folder, folder.read("started"), end)
        for known in (self._gone_at_s, self._due_s, self._alive_us, self._stamps, self._launches):
            known.pop(key, None)
        return self._ended[key]

    def _alive(
        self, key: AttemptKey, folder: Folder, started: dict[str, Any] | None, job: Job | None = None
    ) -> Observation:
        seen = _observation(key, self._launch(key, folder), folder, started, None)
        reason = job.more.removeprefix("reason ").partition(", exit code")[0] if job is not None else ""
        if job is None or started is not None or job.state not in words.WAITS or reason in ("", "None"):
            return seen
        source, line, _ = words.said(job.state, reason)
        return replace(seen, evidence=(Evidence(source, line, None),))

    async def _see_to_stop(self, key: AttemptKey, job: Job, run_as: str) -> None:
        due_s = self._due_s.get(key)
        if due_s is not None and self._clock.monotonic_s() > due_s:
            self._due_s[key] = self._clock.monotonic_s() + _OVERDUE_S
            await self._slurm.cancel(job.number, run_as)

    def expect_end(self, key: AttemptKey, grace_s: float) -> None:
        """Note by when a stop that was asked for must be through."""
        due_s = self._clock.monotonic_s() + grace_s + _OVERDUE_S
        self._due_s[key] = min(self._due_s.get(key, due_s), due_s)

    # -- Slurm's queue ------------------------------------------------------------------------------------------------

    async def adopt(self, key: AttemptKey) -> str:
        """Return the batch job of an attempt whose number was not written down, and write it down; empty: none."""
        await self._refresh(max_age_s=0.0, complete=True)
        found = self._jobs.get(str(key))
        if found is None:
            return ""
        self._work.attempt(key).once("job", {"job": found.number, "at": self._now_us()})
        return found.number

    async def _job(self, key: str, number: str, asked_s: float) -> Job:
        """Return the job in the queue as it was when it was asked for, else as it is told by its number."""
        await self._refresh(max_age_s=self._settings.poll_s, asked_s=asked_s)
        found = self._jobs.get(key)
        if found is not None and (not number or found.number == number) and not words.is_over(found.state):
            return found
        return await self._slurm.job(number) if number else Job("", "")

    async def _refresh(self, *, max_age_s: float, complete: bool = False, asked_s: float | None = None) -> None:
        asked_s = self._clock.monotonic_s() if asked_s is None else asked_s
        async with self._asking:
            if self._jobs_at_s >= asked_s - max_age_s:
                return
            began_s = self._clock.monotonic_s()
            self._jobs = await self._slurm.jobs(self._work.mark, complete=complete)
            self._jobs_at_s = began_s

    async def running_launches(self) -> list[Mapping[str, Any]]:
        """Return the launch records of our attempts that Slurm has given something now."""
        await self._refresh(max_age_s=0.0)
        found: list[Mapping[str, Any]] = []
        for name, job in self._jobs.items():
            if job.state in words.RUNS or job.state == "CONFIGURING":
                key = AttemptKey.parse(name)
                launch = self._launch(key, self._work.attempt(key))
                if launch:
                    found.append(launch)
        return found

    # -- news ---------------------------------------------------------------------------------------------------------

    def news(self) -> None:
        """Wake who waits for changes."""
        self._news.set()

    async def is_over(self, key: AttemptKey) -> bool:
        """Say whether an attempt writes no more output; not while that cannot be known."""
        try:
            seen = await self.look(key)
        except EngineUnavailable:
            return False
        return seen is None or seen.phase is Phase.ENDED

    async def changed(self, timeout_s: float) -> bool:
        """Wait until an attempt that was looked at and is not over has other files, or is over for Slurm."""
        deadline = self._clock.monotonic_s() + timeout_s
        while not self._news.is_set():
            if self._has_moved():
                break
            left = deadline - self._clock.monotonic_s()
            if left <= 0:
                return False
            try:
                await asyncio.wait_for(self._news.wait(), min(left, self._settings.watch_s))
            except TimeoutError:
                await self._poll()
        self._news.clear()
        await asyncio.sleep(0)  # who waits for news in a circle must not keep the others from acting on it
        return True

    def _has_moved(self) -> bool:
        """Say whether anything is another than at the last look or at the last time that this was asked."""
        now = {key: self._stamp(key) for key in self._stamps}
        moved = now != self._stamps
        self._stamps = now
        return moved

    async def _poll(self) -> None:
        """Ask Slurm again where something waits for it, when the last answer is old."""
        if not self._stamps:
            return
        try:
            await self._refresh(max_age_s=self._settings.poll_s)
        except EngineUnavailable:
            return
        if any(self._clock.monotonic_s() - at_s > self._settings.facts_lag_s for at_s in self._gone_at_s.values()):
            self.news()

    def _stamp(self, key: AttemptKey) -> Any:
        job = self._jobs.get(str(key))
        return (self._work.attempt(key).stamp(), job is not None and words.is_over(job.state))

    def drop(self, key: AttemptKey) -> None:
        """Know an attempt no longer."""
        for known in (
            self._ended,
            self._gone_at_s,
            self._due_s,
            self._alive_us,
            self._stamps,
            self._launches,
        ):
            known.pop(key, None)

    def clear(self) -> None:
        """Know nothing any more."""
        for key in [*self._ended, *self._stamps, *self._launches]:
            self.drop(key)
        self._jobs, self._jobs_at_s = {}, -1e9

    def _launch(self, key: AttemptKey, folder: Folder) -> dict[str, Any]:
        if key not in self._launches:
            launch = folder.read("launch")
            if launch is None:
                return {}
            self._launches[key] = launch
        return self._launches[key]

    def _now_us(self) -> int:
        return micros_now(self._clock)


def micros_now(clock: Clock) -> int:
    """Return now in microseconds since 1970."""
    return to_micros(clock.now())


def _ended_as(end: str, why: str, at_us: int) -> dict[str, Any]:
    return {
        "end": end, "exit_code": None, "signal": None, "rank": None, "at": at_us,
        "evidence": [["engine", why, at_us]], "facts": {},
    }  # fmt: skip


def _observation(
    key: AttemptKey, launch: Mapping[str, Any], folder: Folder, started: Mapping[str, Any] | None,
    end: Mapping[str, Any] | None,
) -> Observation:  # fmt: skip
    """Return what records say, in the contract's words."""
    begun = started or {}
    ranks = launch.get("ranks") or [{}]
    seen: dict[str, Any] = {
        "key": key,
        "node": begun.get("node") or ranks[0].get("node", ""),
        "started_at": from_micros(begun["at"]) if begun else None,
        "ports": tuple(begun.get("ports", ())),
        "host": begun.get("host", "127.0.0.1"),
        "limits_by": launch.get("limits", {}).get("by", ""),
        "workdir": launch.get("workdir", ""),
        "output_dir": folder.output_dir,
    }
    if end is None:
        return Observation(phase=Phase.RUNNING if begun else Phase.PENDING, **seen)
    evidence = tuple(
        Evidence(source, line, from_micros(at) if at is not None else None) for source, line, at in end["evidence"]
    )
    return Observation(
        phase=Phase.ENDED, finished_at=from_micros(max(int(end["at"]), int(begun.get("at", 0)))),
        end=End(end["end"]), exit_code=end["exit_code"], signal=end["signal"], rank=end["rank"],
        evidence=evidence, facts=end["facts"], **seen,
    )  # fmt: skip

"""Watches over one attempt, from its first process to its last, and writes down how it ended.

A process of its own, so that the attempt outlives the platform. It decides nothing that the platform should: it carries
out the launch, the stop requests and the time limit, and finds out the facts. `stopping` says when to send what,
`outcome` what an end is called. Standard library only.

Order that makes a kill at any instruction safe: the lock is held before this begins; the start record is written before
anything runs; the end record is written (not final) before the clean-up and again (final) after it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

from dujiang.engines.local import lineage, ports, procfs, records
from dujiang.engines.local.environment import rank_environment
from dujiang.engines.local.home import Home, read_whole, remove
from dujiang.engines.local.kernel_log import about, read_kernel_log
from dujiang.engines.local.limits import Group, LimitPlan, Share
from dujiang.engines.local.linux import adopt_orphans
from dujiang.engines.local.outcome import Death, Outcome, decide
from dujiang.engines.local.ranks import LaunchFailure, command, fork, start, started
from dujiang.engines.local.rooms import Rooms
from dujiang.engines.local.stopping import Cause, Move, Stop, begin

KICK = signal.SIGUSR1
"""Sent by the engine after it wrote a request into the state file."""
_WATCHED = (signal.SIGCHLD, KICK, signal.SIGTERM)
_LONGEST_WAIT_S = 60.0
_MOST_PIDS = 2000
_MOST_LEFTOVERS_NAMED = 10


class Supervisor:
    """One attempt under way."""

    def __init__(self, home: Home, key: str, state_fd: int, home_fd: int) -> None:
        self._home, self._key, self._state, self._home_fd = home, key, state_fd, home_fd
        self._launch: dict[str, Any] = {}
        self._groups: dict[int, Group] = {}
        self._environments: dict[int, dict[str, str]] = {}
        self._secrets: dict[str, str] = {}
        self._rooms: Rooms | None = None
        self._leaders: dict[int, int] = {}  # live first processes: number to rank
        self._called: set[int] = set()  # live commands of a container runtime
        self._deaths: dict[int, Death] = {}  # of every child reaped that we wait for: number to how
        self._ranks: dict[int, Death] = {}
        self._first_failed: int | None = None
        self._setup: Death | None = None
        self._stop: Stop | None = None
        self._signals_done = 0
        self._alone = False
        self._pids: set[int] = set()
        self._ports: list[int] = []
        self._master_port = 0
        self._started: dict[str, Any] = {}
        self._ports_fd = -1
        self._evidence: list[tuple[str, str, int | None]] = []
        self._begun_s = records.monotonic_s()
        self._failure: str | None = None

    def run(self) -> None:
        """Carry the attempt from start to end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        try:
            self._begin()
            if self._prepare():
                self._run_ranks()
        except LaunchFailure as failure:
            self._failure = str(failure)
        self._finish()

    # -- start --------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        launch = read_whole(self._home.launch(self._key))
        self._secrets = read_whole(self._home.secrets(self._key)) or {}
        self._launch = launch or {}
        self._started = {"pid": os.getpid(), "boot": records.boot_id(), "at": records.wall_us(), "ports": []}
        failure: str | None = None
        try:
            self._ports_fd, taken = ports.take(self._home.ports, 1 + int(self._launch.get("ports", 0)), self._key)
            self._master_port, self._ports = taken[0], taken[1:]
            self._started["ports"] = self._ports
        except OSError as error:
            failure = f"no ports for the job: {error.strerror}"
        records.write_record(self._state, records.STARTED_AT, records.STARTED_BYTES, self._started)
        remove(self._home.secrets(self._key))
        self._notify()
        if launch is None:
            failure = f"the launch record {self._home.launch(self._key)} cannot be read"
        if failure:
            raise LaunchFailure(failure)
        self._make_folders()
        self._make_groups()

    def _make_folders(self) -> None:
        made = [self._home.output_dir(self._key)]
        if self._launch["own_workdir"]:
            made.append(self._launch["workdir"])
        if self._launch["checkpoint"]:
            made.append(self._launch["checkpoint"]["path"])
        for path in made:
            try:
                os.makedirs(path, exist_ok=True)
            except OSError as error:
                raise LaunchFailure(f"the folder {path} cannot be made: {error.strerror}") from error
        if not os.path.isdir(self._launch["workdir"]):
            raise LaunchFailure(f"the working directory {self._launch['workdir']} is not a folder on this machine")

    def _make_groups(self) -> None:
        plan = LimitPlan(self._launch["limits"]["by"], self._launch["limits"]["parents"])
        for rank in self._launch["ranks"]:
            share = Share(rank["cpu_milli"], rank["memory_bytes"], self._launch["processes_limit"])
            group = self._groups[rank["rank"]] = Group(plan, f"{self._key}.{rank['rank']}", share)
            try:
                group.make()
            except OSError as error:
                raise LaunchFailure(f"the limits ({plan.by}) cannot be set: {error}") from error

    # -- what runs ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> bool:
        """Make the rooms, run the setup, find out the lineage; False when the program is not to be started."""
        self._look_at_requests()
        if self._stop is not None or not self._make_rooms():
            return False
        self._compose()
        if self._launch["setup"].strip():
            pid = self._start(0, self._launch["setup"], "setup")
            self._wait_until(lambda: pid in self._deaths and (self._stop is None or self._alone))
            if self._deaths[pid].failed or self._stop:
                self._setup = self._deaths[pid]
                return False
        if self._launch["inputs"] or self._launch["record_environment"]:
            pid = fork(self._record_lineage, output=self._home.output(self._key, 0), group=self._groups[0])
            self._leaders[pid] = -1
            self._wait_until(lambda: pid in self._deaths and (self._stop is None or self._alone))
            if self._deaths[pid].failed:
                self._say("supervisor", f"inputs and environment were not recorded: that step {self._deaths[pid]}")
        self._look_at_requests()
        return self._stop is None

    def _make_rooms(self) -> bool:
        """Have the containers made that an image needs; False when the attempt is being stopped."""
        if not (self._launch.get("image") or {}).get("runtime"):
            return True
        self._rooms = Rooms(self._home, self._key, self._launch)
        adopt_orphans(False)  # what the runtime leaves running is its own, not among the attempt's processes
        try:
            return self._rooms.make(self._call)
        finally:
            adopt_orphans()

    def _call(self, words: list[str], output: str, env: Mapping[str, str]) -> int | None:
        """Run a command of a container runtime, outside the limits; return its status, None when stopped meanwhile."""
        free = Group(LimitPlan("rlimits"), self._key, Share(0, 0, 0))
        pid, errors = start(words, {**os.environ, **env}, workdir="/", output=output, group=free)
        self._called.add(pid)
        started(errors)
        self._wait_until(lambda: pid in self._deaths and (self._stop is None or self._alone))
        death = self._deaths[pid]
        return None if self._stop else death.exit_code if death.signal is None else 128 + death.signal

    def _compose(self) -> None:
        for rank in self._launch["ranks"]:
            self._environments[rank["rank"]] = rank_environment(
                self._rooms.environment(rank["rank"]) if self._rooms else os.environ,
                self._launch,
                self._secrets,
                rank,
                workdir=self._launch["workdir"],
                output_dir=self._home.output_dir(self._key),
                ports=self._ports,
                master_port=self._master_port,
            )
        self._secrets = {}

    def _record_lineage(self) -> None:
        place, name = os.path.split(self._home.facts(self._key))
        if self._rooms:  # by way of a descriptor: the folder cannot be seen inside
            place = f"/proc/self/fd/{os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)}"
            lineage.load()
            self._rooms.enter(0)
        lineage.record(self._launch, self._environments[0], self._launch["workdir"], f"{place}/{name}")

    def _run_ranks(self) -> None:
        for rank in self._launch["ranks"]:
            self._start(rank["rank"], self._launch["run"], "run")
        self._wait_until(lambda: not self._leaders and (self._stop is None or self._alone))

    def _start(self, rank: int, text: str, name: str) -> int:
        rooms = self._rooms
        plain = command(text, shell=self._launch["shell"], name=name, folder=self._script_folder())
        arguments = self._wrapped(rank, name, plain)
        pid, errors = start(
            arguments,
            self._environments[rank],
            workdir=self._launch["workdir"],
            output=self._home.output(self._key, rank),
            group=self._groups[rank],
            enter=(lambda: rooms.enter(rank)) if rooms else None,
        )
        self._leaders[pid] = rank if name == "run" else -1
        started(errors)
        return pid

    def _script_folder(self) -> str:
        """Return where commands go that are too long for a command line; it is seen in images too."""
        return self._rooms.folder if self._rooms else self._home.folder(self._key)

    def _wrapped(self, rank: int, name: str, arguments: list[str]) -> list[str]:
        """Return how to run a program of a rank where something else than this supervisor runs images."""
        return arguments

    # -- the watch ----------------------------------------------------------------------------------------------------

    def _wait_until(self, done: Callable[[], bool]) -> None:
        while True:
            self._reap()
            if done():
                return
            self._look_at_requests()
            self._advance()
            told = signal.sigtimedwait(_WATCHED, self._patience_s())
            if told is not None and told.si_signo == signal.SIGTERM:
                self._say("supervisor", f"told to end by process {told.si_pid} of user {told.si_uid}, as at shutdown")
                self._begin_stop(Cause.TERMINATED, records.monotonic_s(), float(self._launch["grace_s"]))

    def _reap(self) -> None:
        self._alone = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._alone = True
                return
            if pid == 0:
                return
            self._note_death(pid, Death.of(status))

    def _note_death(self, pid: int, death: Death) -> None:
        if len(self._pids) < _MOST_PIDS:
            self._pids.add(pid)
        if pid in self._called:
            self._called.discard(pid)
            self._deaths[pid] = death
        if pid not in self._leaders:
            return
        self._deaths[pid] = death
        rank = self._leaders.pop(pid)
        if rank < 0:
            return
        self._ranks[rank] = death
        if death.failed and self._stop is None and self._first_failed is None:
            self._first_failed = rank
            if self._leaders:
                self._say("supervisor", f"rank {rank} {death}, so the other ranks are stopped")
                self._begin_stop(Cause.SIBLING, records.monotonic_s(), float(self._launch["grace_s"]))

    def _look_at_requests(self) -> None:
        asked = records.read_stop(self._state)
        if asked is not None:
            begun, deadline = asked
            if self._stop is None:
                self._begin_stop(Cause.ASKED, begun, deadline - begun)
            else:
                self._stop = self._stop.shortened(deadline)
        if not self._leaders:
            return
        self._signals_done, numbers = records.read_signals(self._state, self._signals_done)
        for number in numbers:
            self._signal_programs(number)

    def _advance(self) -> None:
        now = records.monotonic_s()
        limit = self._launch["time_limit_s"]
        if limit is not None and self._stop is None and now >= self._begun_s + limit:
            self._say("supervisor", f"ran longer than its time limit of {limit:g} s")
            self._begin_stop(Cause.TIME_LIMIT, now, float(self._launch["grace_s"]))
        if self._stop is None:
            return
        self._stop, moves = self._stop.due(now)
        for move in moves:
            if move is Move.SAVE and self._stop.save_signal is not None:
                self._signal_programs(self._stop.save_signal)
            elif move is Move.TERMINATE:
                self._signal_everything(signal.SIGTERM)
                self._signal_everything(signal.SIGCONT)
            elif move is Move.KILL:
                self._kill_everything()

    def _patience_s(self) -> float:
        now = records.monotonic_s()
        times = [now + _LONGEST_WAIT_S]
        if self._stop is not None:
            overdue = now - self._stop.deadline
            times.append(now + min(0.5, 0.01 + overdue / 10) if overdue >= 0 else self._stop.next_at())
        elif self._launch["time_limit_s"] is not None:
            times.append(self._begun_s + self._launch["time_limit_s"])
        return max(0.0, min(times) - now)

    def _begin_stop(self, cause: Cause, begun: float, grace_s: float) -> None:
        if self._stop is None:
            save = (self._launch["checkpoint"] or {}).get("signal")
            self._stop = begin(cause, begun, grace_s, save)

    # -- signals ------------------------------------------------------------------------------------------------------

    def _signal_programs(self, number: int) -> None:
        for leader in self._leaders:
            for pid in procfs.receivers(leader, number):
                _kill(pid, number)

    def _signal_everything(self, number: int) -> None:
        for pid in procfs.descendants(os.getpid()):
            _kill(pid, number)

    def _kill_everything(self) -> None:
        """Kill all there is. What cannot be kept from forking is stopped first, so that it cannot outrun the kill."""
        for group in self._groups.values():
            group.stop_growth()
        found = procfs.descendants(os.getpid())
        found += [pid for group in self._groups.values() for pid in group.members()]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in dict.fromkeys(found):
                _kill(pid, number)

    # -- end ----------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        outcome = self._decide()
        self._gather(outcome)
        end = self._end(outcome)
        records.write_end(self._state, {**end, "final": False})
        end["evidence"] += self._clear()
        for told in self._rooms.close() if self._rooms else ():
            end["evidence"].append(("supervisor", told, records.wall_us()))
        end["facts"] |= self._usage()
        for group in self._groups.values():
            group.remove()
        records.write_end(self._state, {**end, "final": True})
        self._notify()

    def _decide(self) -> Outcome:
        if self._failure is not None:
            self._say("supervisor", self._failure)
            return Outcome("LaunchFailed", Death(None, None), None)
        if not self._ranks and self._setup is None:
            cause = self._stop.cause if self._stop else Cause.ASKED
            return decide({}, first_failed=None, stopped_by=cause, oom_kills=0)
        return decide(
            self._ranks,
            first_failed=self._first_failed,
            stopped_by=self._stop.cause if self._stop else None,
            oom_kills=sum(group.oom_kills() for group in self._groups.values()),
            setup=self._setup,
        )

    def _gather(self, outcome: Outcome) -> None:
        death = outcome.death
        if death.failed and (death.exit_code is not None or death.signal is not None):
            what = "the setup" if self._setup is not None else f"rank {outcome.rank}"
            self._say("supervisor", f"{what} {death}")
        for group in self._groups.values():
            for line in group.counters():
                self._say("limit-group", line)
        violent = death.signal is not None or (death.exit_code or 0) > 128 or outcome.end == "OutOfMemory"
        if violent and outcome.end not in ("Stopped", "TimeLimit"):
            folders = [folder for group in self._groups.values() for folder in group.folders]
            offset_us = records.wall_us() - int(records.monotonic_s() * 1e6)
            for at, line in about(read_kernel_log(), self._pids, folders, self._begun_s - 0.1):
                self._evidence.append(("kernel", line, int(at * 1e6) + offset_us))

    def _clear(self) -> list[tuple[str, str, int | None]]:
        """Kill whatever is still there, and return only when it is gone."""
        left = procfs.descendants(os.getpid()) if not self._alone else []
        names = [f"{procfs.name(pid)} ({pid})" for pid in left if procfs.is_alive(pid)]
        wait_s = 0.002
        while True:
            self._reap()
            if self._alone and not any(group.members() for group in self._groups.values()):
                break
            self._kill_everything()
            signal.sigtimedwait((signal.SIGCHLD,), wait_s)
            wait_s = min(0.5, wait_s * 1.5)
        if not names:
            return []
        more = f" and {len(names) - _MOST_LEFTOVERS_NAMED} more" if len(names) > _MOST_LEFTOVERS_NAMED else ""
        listed = ", ".join(names[:_MOST_LEFTOVERS_NAMED])
        return [("supervisor", f"left behind when the program had ended, and killed: {listed}{more}", None)]

    def _usage(self) -> dict[str, Any]:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        peaks = [peak for group in self._groups.values() if (peak := group.peak_memory_bytes()) is not None]
        return {
            "peak_memory_bytes": max(peaks) if peaks else used.ru_maxrss * 1024,
            "peak_memory_of": "limit group" if peaks else "largest process",
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 6),
        }

    def _end(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "end": outcome.end,
            "exit_code": outcome.death.exit_code,
            "signal": outcome.death.signal,
            "rank": outcome.rank,
            "at": max(records.wall_us(), int(self._started["at"])),
            "evidence": list(self._evidence),
            "facts": {
                "ran_s": round(records.monotonic_s() - self._begun_s, 6),
                "ranks": {str(rank): str(death) for rank, death in sorted(self._ranks.items())},
            },
        }

    def _say(self, source: str, line: str) -> None:
        self._evidence.append((source, line, records.wall_us()))

    def _notify(self) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(self._key.encode(), f"/proc/self/fd/{self._home_fd}/events.sock")


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)

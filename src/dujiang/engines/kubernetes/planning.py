"""What an attempt is, by its record and its Pods, and what is to be done about it: pure.

The same input gives the same steps, also after a restart or in a second platform: nothing is remembered here. A gang
is let go when all its Pods are there; a rank that failed ends the others; a stop reaches what runs through its runner,
and what does not run yet by deletion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dujiang.engines.contract import End, Evidence, Observation, Phase
from dujiang.engines.kubernetes import words
from dujiang.engines.kubernetes.environment import LIMITS
from dujiang.engines.kubernetes.kueue import HOLD, Workload
from dujiang.engines.kubernetes.records import GATE, Record, Stop
from dujiang.engines.kubernetes.seeing import Pod
from dujiang.engines.kubernetes.words import RankEnd
from dujiang.kit.clock import from_micros

SIBLING_GRACE_S: Final = 5.0
OVERDUE_US: Final = 30_000_000
"""How long after a stop's grace a Pod is deleted whose runner did not carry it out."""
SETTLE_US: Final = 15_000_000
"""How long after its grace a deleted Pod on a node that is not ready is waited for."""
_MOST_EVIDENCE = 20


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of an attempt."""

    record: Record
    pods: Mapping[int, Pod]
    ends: Mapping[int, RankEnd]
    """Of the ranks that are over."""
    started_us: int | None
    workloads: Mapping[int, Workload] = field(default_factory=dict)
    """Of the ranks that Kueue manages, as far as it shows them."""

    @property
    def is_over(self) -> bool:
        """Say whether all ranks are."""
        return len(self.ends) == self.record.ranks

    @property
    def failed(self) -> RankEnd | None:
        """Return the rank that failed first by itself, or was taken away.

        Of one that was taken away before it began nobody tells when that was: we do so to those beside one that failed.
        """
        own = [end for end in self.ends.values() if end.failed and end.cause in ("", "limit", "taken")]
        return min(
            own, key=lambda end: (end.cause == "taken" and end.at_us is None, end.at_us or 0, end.rank), default=None
        )


@dataclass(frozen=True, slots=True)
class Ungate:
    """Let a Pod of a complete gang be scheduled."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class Go:
    """Tell a rank that the setup is done."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the runner of a rank to stop."""

    pod: Pod
    cause: str
    deadline_us: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a Pod: it has not started, or its runner does not stop it."""

    pod: Pod
    grace_s: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End an attempt that waits for what does not come."""

    why: str


Step = Ungate | Go | Tell | Delete | GiveUp


def see(
    record: Record,
    pods: Mapping[int, Pod],
    missing: Mapping[int, str],
    is_ready: Callable[[str], bool | None],
    now_us: int,
    workload_of: Callable[[str], Workload | None] = lambda _: None,
) -> Sight:
    """Return what is seen of an attempt that has no verdict yet.

    Args:
        record: of it.
        pods: those that there are, by rank.
        missing: ranks whose Pod was made and is not there, asked for by its name, with what is known of that.
        is_ready: whether a node is; None of one that there is not.
        now_us: the platform's time.
        workload_of: returns what Kueue says of a Pod, by its uid.
    """
    ends: dict[int, RankEnd] = {}
    for rank, pod in pods.items():
        if pod.is_over:
            ends[rank] = words.end_of(pod, is_ready=is_ready(pod.node))
        elif pod.deleted_us is not None and now_us > pod.deleted_us + SETTLE_US and is_ready(pod.node) is not True:
            ends[rank] = _given_up(pod)
    for rank, why in missing.items():
        ends[rank] = RankEnd(rank, End.LOST, evidence=(("engine", why),))
    begun = [pod.box.started_us for pod in pods.values() if pod.box.started_us is not None]
    queued = {rank: workload_of(pod.uid) for rank, pod in pods.items() if pod.is_queued}
    workloads = {rank: workload for rank, workload in queued.items() if workload is not None}
    return Sight(record, pods, ends, min(begun, default=None), workloads)


def _given_up(pod: Pod) -> RankEnd:
    """Return the end of a rank whose node does not answer, and that Kubernetes has given up itself."""
    told = pod.disrupted[1] if pod.disrupted else "the Pod was deleted"
    line = f"rank {pod.rank}: {told}; its node {pod.node} does not answer, so nobody has seen it end"
    return RankEnd(
        pod.rank, End.NODE_LOST, "taken", started_us=pod.box.started_us, at_us=pod.deleted_us,
        evidence=(("engine", line),),
    )  # fmt: skip


def steps(sight: Sight, *, now_us: int, wait_us: int) -> list[Step]:
    """Return what is to be done now; nothing for an attempt that is over.

    Args:
        sight: of the attempt.
        now_us: the platform's time.
        wait_us: how long Pods may wait for their start.
    """
    record, found = sight.record, list[Step]()
    alive = [pod for rank, pod in sorted(sight.pods.items()) if rank not in sight.ends]
    stop = _stop_of(sight)
    if stop is not None:
        for pod in alive:
            found += _stopping(pod, stop, now_us)
        return found
    for pod in alive:
        if (why := _waited_too_long(sight, pod, now_us, wait_us)) is not None:
            return [GiveUp(why)]
        if GATE in pod.gates and record.is_made and len(sight.pods) == record.ranks:
            found.append(Ungate(pod))
        if pod.rank and pod.box.state == "running" and record.launch["waits_for_go"] and _is_set_up(sight):
            found.append(Go(pod))
    return found


def _stop_of(sight: Sight) -> Stop | None:
    """Return the stop that is under way: one that was asked for, or that of the ranks beside one that failed."""
    record = sight.record
    if record.stop is not None:
        return record.stop
    failed = sight.failed
    if failed is None:
        return None
    at_us = failed.at_us or 0
    grace_s = min(SIBLING_GRACE_S, float(record.launch["grace_s"]))
    return Stop("sibling", at_us, at_us + int(grace_s * 1e6))


def _stopping(pod: Pod, stop: Stop, now_us: int) -> list[Step]:
    if pod.box.state == "running":
        cause = "sibling" if stop.cause == "sibling" else "asked"
        told: list[Step] = [Tell(pod, cause, stop.deadline_us)]
        if now_us > stop.deadline_us + OVERDUE_US and pod.deleted_us is None:
            told.append(Delete(pod, 1))
        return told
    if pod.deleted_us is not None:
        return []
    return [Delete(pod, max(1, math.ceil((stop.deadline_us - now_us) / 1e6)))]


def _waited_too_long(sight: Sight, pod: Pod, now_us: int, wait_us: int) -> str | None:
    if pod.box.state == "running" or pod.deleted_us is not None:
        return None
    why = words.why_waiting(pod)
    if words.is_hopeless(pod):
        return f"rank {pod.rank} cannot start: {why}"
    since_us = _waits_since(sight, pod)
    if since_us is None or now_us - since_us <= wait_us:
        return None
    return f"rank {pod.rank} has waited {(now_us - since_us) // 1_000_000} s for its start: {why or 'nothing says why'}"


def _waits_since(sight: Sight, pod: Pod) -> int | None:
    """Return since when a Pod waits for what should come soon; None while Kueue may hold it for as long as it likes.

    The time of a Pod's condition `PodScheduled` does not tell: it stays that of when Kueue began to hold it.
    """
    at_us = int(sight.record.launch["at_us"])
    if not pod.is_queued:
        return at_us
    workload = sight.workloads.get(pod.rank)
    if HOLD in pod.gates or (workload is not None and workload.admitted_us is None):
        return None
    admitted_us = workload.admitted_us if workload is not None else pod.bound_us
    return None if admitted_us is None else max(at_us, admitted_us)


def _is_set_up(sight: Sight) -> bool:
    if 0 in sight.ends:
        return not sight.ends[0].failed
    return 0 in sight.pods and sight.pods[0].is_set_up


# -- in the contract's words ------------------------------------------------------------------------------------------


def decide(sight: Sight, *, now_us: int) -> dict[str, Any]:
    """Return the verdict on an attempt that is over. What happened first decides.

    A rank that failed before a stop was asked for has failed; a stop that was asked for first stays a stop, however
    the program then ends.
    """
    record, stop, failed = sight.record, sight.record.stop, sight.failed
    ends = [end for _, end in sorted(sight.ends.items())]
    if failed is not None and stop is not None and (failed.at_us is None or failed.at_us > stop.at_us):
        failed = None
    if failed is not None:
        first, end = failed, failed.end
    elif stop is not None:
        first = next((end for end in ends if end.exit_code is not None or end.signal is not None), ends[0])
        end = End.STOPPED if stop.cause == "asked" else End.LAUNCH_FAILED
    else:
        first = next((end for end in ends if end.failed), ends[0])
        end = first.end
    started = [each.started_us for each in ends if each.started_us is not None]
    if started and end is End.NODE_REFUSED:  # another rank's node had taken it
        end = End.LAUNCH_FAILED
    at_us = max([each.at_us for each in ends if each.at_us is not None], default=now_us)
    why = [["engine", stop.why, stop.at_us]] if stop is not None and stop.why else []
    told = [first, *(each for each in ends if each is not first)]
    lines = [[source, line, None] for each in told for source, line in each.evidence]
    if started and not any(end.signal or end.exit_code is not None for end in ends) and end is End.STOPPED:
        lines.append(["engine", "it was stopped before its program began", None])
    is_plain = end is not End.LAUNCH_FAILED
    return {
        "end": str(end), "exit_code": first.exit_code if is_plain else None,
        "signal": first.signal if is_plain else None, "rank": first.rank, "at_us": max([at_us, *started]),
        "started_us": min(started, default=None), "evidence": [*why, *lines][:_MOST_EVIDENCE],
        "facts": {**record.launch.get("lineage", {}), **_facts(ends, started, at_us)}, **_place(record, sight.pods),
    }  # fmt: skip


def _facts(ends: list[RankEnd], started: list[int], at_us: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"ranks": {str(end.rank): _how(end) for end in ends}}
    if started:
        facts["ran_s"] = round(max(0, at_us - min(started)) / 1e6, 6)
    peaks = [end.facts["peak_memory_bytes"] for end in ends if "peak_memory_bytes" in end.facts]
    if peaks:
        facts |= {"peak_memory_bytes": max(peaks), "peak_memory_of": "limit group"}
    for end in ends:
        facts |= {name: end.facts[name] for name in ("inputs", "environment") if name in end.facts}
    if any("cpu_seconds" in end.facts for end in ends):
        facts["cpu_seconds"] = round(sum(end.facts.get("cpu_seconds", 0.0) for end in ends), 6)
    return facts


def _how(end: RankEnd) -> str:
    if end.signal is not None:
        return f"died of signal {words.signal_name(end.signal)}"
    return f"exited with {end.exit_code}" if end.exit_code is not None else str(end.end)


def observation(sight: Sight) -> Observation:
    """Return an attempt that is under way."""
    record, pods = sight.record, sight.pods
    waiting = {pod.rank: _why_waiting(sight, pod) for pod in pods.values() if pod.rank not in sight.ends}
    told = {why: rank for rank, why in sorted(waiting.items(), reverse=True)} if sight.workloads else {}
    evidence = tuple(
        Evidence("engine", f"rank {rank} waits: {why}")
        for rank, why in sorted(waiting.items()) if why and told.get(why, rank) == rank  # Kueue says the same of all
    )  # fmt: skip
    return Observation(
        phase=Phase.PENDING if sight.started_us is None else Phase.RUNNING,
        started_at=None if sight.started_us is None else from_micros(sight.started_us),
        evidence=evidence[:_MOST_EVIDENCE], **_common(record), **_place(record, pods),
    )  # fmt: skip


def _why_waiting(sight: Sight, pod: Pod) -> str:
    if HOLD not in pod.gates:
        return words.why_waiting(pod)
    workload = sight.workloads.get(pod.rank)
    return workload.says if workload is not None and workload.says else "Kueue holds it back, and does not show us why"


def ended(record: Record) -> Observation:
    """Return an attempt that has its verdict."""
    verdict = record.verdict
    assert verdict is not None
    started_us = verdict["started_us"]
    evidence = tuple(
        Evidence(source, line, from_micros(at) if at is not None else None) for source, line, at in verdict["evidence"]
    )
    return Observation(
        phase=Phase.ENDED, started_at=None if started_us is None else from_micros(started_us),
        finished_at=from_micros(verdict["at_us"]), end=End(verdict["end"]), exit_code=verdict["exit_code"],
        signal=verdict["signal"], rank=verdict["rank"], evidence=evidence, facts=verdict["facts"],
        node=verdict["node"], host=verdict["host"], **_common(record),
    )  # fmt: skip


def _place(record: Record, pods: Mapping[int, Pod]) -> dict[str, Any]:
    first = pods.get(0)
    node = (first.node if first else "") or record.launch["nodes"][0]
    return {"node": node, "host": (first.ip if first else "") or "127.0.0.1"}


def _common(record: Record) -> dict[str, Any]:
    return {
        "key": record.key, "ports": tuple(record.launch["ports"]), "limits_by": LIMITS,
        "workdir": record.launch["workdir"], "output_dir": record.launch["output_dir"],
    }  # fmt: skip

"""What Kubernetes' words mean in ours: pure. The tables are told, row by row, in docs/kubernetes.md.

A rank is judged by what its own runner wrote down; Kubernetes' reasons count where that is missing, or says only that
the Pod was taken away.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dujiang.engines.contract import End
from dujiang.engines.kubernetes import recording
from dujiang.engines.kubernetes.seeing import Pod

TAKEN: Final[Mapping[str, End]] = {
    "PreemptionByScheduler": End.PREEMPTED,
    "EvictionByEvictionAPI": End.PREEMPTED,
    "DeletionByTaintManager": End.PREEMPTED,
    "DeletionByPodGC": End.NODE_LOST,
    "DeletionByDeviceTaintManager": End.NODE_LOST,
    "TerminationByKubelet": End.PREEMPTED,
    "StoppedByKueue": End.PREEMPTED,
    "WorkloadEvictedDueToPreempted": End.PREEMPTED,
    "WorkloadEvictedDueToNodeFailures": End.NODE_LOST,
}
"""Of the condition `DisruptionTarget` (Kueue: `TerminationTarget`) by its reason; one that is not here: `Preempted`."""

FAILED: Final[Mapping[str, End]] = {
    "Evicted": End.PREEMPTED,
    "Preempting": End.PREEMPTED,
    "NodeShutdown": End.NODE_LOST,
    "Terminated": End.NODE_LOST,
    "Shutdown": End.NODE_LOST,
    "NodeLost": End.NODE_LOST,
    "DeadlineExceeded": End.TIME_LIMIT,
    "UnexpectedAdmissionError": End.NODE_REFUSED,
    "AdmissionFailed": End.NODE_REFUSED,
    "NodeAffinity": End.NODE_REFUSED,
    "TopologyAffinityError": End.NODE_REFUSED,
    "OutOfcpu": End.NODE_REFUSED,
    "OutOfmemory": End.NODE_REFUSED,
    "OutOfpods": End.NODE_REFUSED,
    "OutOfephemeral-storage": End.NODE_REFUSED,
}
"""Of a Pod's `status.reason`; `OutOf` with any other resource is as those here."""

BROKEN: Final[Mapping[str, End]] = {
    "OOMKilled": End.OUT_OF_MEMORY,
    "StartError": End.LAUNCH_FAILED,
    "ContainerCannotRun": End.LAUNCH_FAILED,
    "ContainerStatusUnknown": End.LOST,
    "Unknown": End.LOST,
}
"""Of a container that has terminated without a word of our runner, by its reason; `Unknown` is containerd's word for
what ran when the machine went down."""

HOPELESS: Final = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""Reasons for which a container waits, and waiting longer does not help."""
_NO_IMAGE: Final = ("code = notfound", "manifest unknown", "not found")
_NEVER_BEGUN = frozenset({End.LAUNCH_FAILED, End.NODE_REFUSED})
_SAID_BY_KUBELET = ("TerminationByKubelet",)


@dataclass(frozen=True, slots=True)
class RankEnd:
    """How one rank ended."""

    rank: int
    end: End
    cause: str = ""
    """What ended it: nothing but itself (empty), `asked`, `limit`, `sibling` (another rank had failed), or `taken`."""
    exit_code: int | None = None
    signal: int | None = None
    started_us: int | None = None
    at_us: int | None = None
    evidence: tuple[tuple[str, str], ...] = ()
    """Source and line."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Say whether it ended in any other way than by itself and well."""
        return self.end is not End.EXITED or self.exit_code != 0 or self.cause != ""


def said_by_runner(message: str) -> dict[str, str] | None:
    """Return the runner's last word; None where it left none."""
    if not message.startswith("v=1\n"):
        return None
    return {name: value for name, _, value in (line.partition("=") for line in message.splitlines())}


def end_of(pod: Pod, *, is_ready: bool | None) -> RankEnd:
    """Return how the rank of a Pod that is over has ended.

    Args:
        pod: that is over.
        is_ready: whether its node is; None when there is no such node any more.
    """
    word = said_by_runner(pod.box.message) if pod.box.state == "terminated" else None
    told = _told(pod)
    if word is None:
        return _without_word(pod, told, is_ready)
    ran_us = int(word.get("ran_cs") or 0) * 10_000
    started_us = pod.box.started_us
    times: dict[str, Any] = {"started_us": started_us, "at_us": started_us + ran_us if started_us else None}
    if word["end"] == End.LAUNCH_FAILED:
        return RankEnd(pod.rank, End.LAUNCH_FAILED, evidence=(("runner", word.get("why", "")), *told), **times)
    cause = {"term": "taken"}.get(word["cause"], word["cause"])
    number, status = _number(word["signal"]), _number(word["status"])
    how: dict[str, Any] = {"exit_code": status if number is None else None, "signal": number}
    if word["unstarted"]:
        how = {}
    lines = [("runner", line) for line in _lines(pod.rank, word, number, status)]
    ends = {"asked": End.STOPPED, "sibling": End.STOPPED, "limit": End.TIME_LIMIT}
    if cause in ends:
        end = ends[cause]
    elif cause == "taken":
        end = _taken(pod, is_ready)
    elif status and (_number(word["oom"]) or pod.box.reason == "OOMKilled"):
        end = End.OUT_OF_MEMORY
    elif word["end"] == End.SETUP_FAILED:
        end = End.SETUP_FAILED
    else:
        end = End.EXITED if number is None else End.SIGNALED
    return RankEnd(pod.rank, end, cause, evidence=(*lines, *told), facts=_facts(word), **how, **times)


def _without_word(pod: Pod, told: tuple[tuple[str, str], ...], is_ready: bool | None) -> RankEnd:
    box, how = pod.box, dict[str, Any]()
    has_ended = box.state == "terminated"
    end, cause = End.LOST, ""
    reason = "OutOfcpu" if pod.reason.startswith("OutOf") else pod.reason
    if pod.disrupted is not None:
        end, cause = _taken(pod, is_ready), "taken"
    elif reason in FAILED:
        end, cause = FAILED[reason], "" if FAILED[reason] in _NEVER_BEGUN else "taken"
    elif has_ended and box.reason in BROKEN:
        end = BROKEN[box.reason]
        if pod.deleted_us is not None and box.started_us is None:
            cause = "taken"  # a kubelet says so of what was deleted before it began
    elif pod.deleted_us is not None:
        end, cause = End.STOPPED, "taken"
    elif has_ended and 128 < box.code <= 192:
        end, how = End.SIGNALED, {"signal": box.code - 128}
    elif has_ended:
        end, how = End.EXITED, {"exit_code": box.code}
    if has_ended and cause and box.code == 128 + signal.SIGKILL:
        how = {"signal": int(signal.SIGKILL)}
    return RankEnd(
        pod.rank, end, cause, started_us=box.started_us, at_us=box.finished_us, evidence=told, **how
    )  # fmt: skip


def _taken(pod: Pod, is_ready: bool | None) -> End:
    """Return what a Pod that was taken away has ended as."""
    if pod.disrupted is None:
        return FAILED.get(pod.reason, End.STOPPED)  # somebody deleted it
    reason = pod.disrupted[0]
    if reason in _SAID_BY_KUBELET and pod.reason in FAILED:
        return FAILED[pod.reason]
    if reason == "DeletionByTaintManager" and is_ready is not True:
        return End.NODE_LOST
    return TAKEN.get(reason, End.PREEMPTED)


def _told(pod: Pod) -> tuple[tuple[str, str], ...]:
    """Return Kubernetes' own words about the end of a Pod."""
    lines: list[str] = []
    if pod.disrupted is not None:
        lines.append(_sentence(*pod.disrupted))
    elif pod.deleted_us is not None:
        lines.append("the Pod was deleted")
    if pod.reason or (pod.message and pod.phase == "Failed"):
        lines.append(_sentence(pod.reason, pod.message))
    box = pod.box
    if box.state == "terminated" and box.reason not in ("", "Completed", "Error"):
        own = "" if said_by_runner(box.message) is not None else box.message
        lines.append(_sentence(box.reason, own or f"exit code {box.code}"))
    return tuple(("engine", f"rank {pod.rank}: {line}") for line in lines)


def _sentence(reason: str, message: str) -> str:
    return ": ".join(part for part in (reason, message.strip()) if part)[:1000]


def _lines(rank: int, word: Mapping[str, str], number: int | None, status: int | None) -> list[str]:
    what = "the setup" if word["end"] == End.SETUP_FAILED else f"rank {rank}"
    lines: list[str] = []
    if word["unstarted"]:
        lines.append(f"{what} was stopped before it began")
    elif number is not None:
        lines.append(f"{what} died of signal {signal_name(number)}")
    elif status is not None and 128 < status <= 192:
        inner = signal_name(status - 128)
        lines.append(f"{what} exited with {status}, which a shell says when its command died of signal {inner}")
    elif status:
        lines.append(f"{what} exited with {status}")
    if word["cause"] == "limit":
        lines.append("it ran longer than its time limit")
    if kills := _number(word["oom"]):
        lines.append(f"the kernel killed {kills} of its processes at the limit of memory")
    if word["left"]:
        named = ", ".join(_named(each) for each in word["left"].split(","))
        lines.append(f"left behind when the program had ended, and killed: {named}")
    return lines


def _named(text: str) -> str:
    name, _, number = text.rpartition(":")
    return f"{name} ({number})"


def signal_name(number: int) -> str:
    """Return `9 (SIGKILL)`, or the bare number of a signal without a name."""
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def _facts(word: Mapping[str, str]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if (peak := _number(word["peak"])) is not None:
        facts |= {"peak_memory_bytes": peak, "peak_memory_of": "limit group"}
    if (cpu_us := _number(word["cpu_us"])) is not None:
        facts["cpu_seconds"] = cpu_us / 1e6
    return facts | recording.unpack(word.get("facts", ""))


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None


def why_waiting(pod: Pod) -> str:
    """Return in Kubernetes' words why a Pod has not started, empty when it says nothing."""
    if pod.box.state == "waiting":
        return _sentence(pod.box.reason, pod.box.message)
    return _sentence(*pod.waits[:2]) if pod.waits is not None else ""


def is_hopeless(pod: Pod) -> bool:
    """Say whether a Pod waits for what does not come by waiting."""
    if pod.box.state != "waiting":
        return False
    if pod.box.reason in HOPELESS:
        return True
    said = pod.box.message.lower()
    return pod.box.reason == "ImagePullBackOff" and any(word in said for word in _NO_IMAGE)

"""What Slurm's words mean in ours: pure. The table is told, row by row, in docs/slurm.md.

A job that ended is judged by what its own runner wrote down; Slurm's state counts where that is missing or says only
that somebody sent a signal.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any, Final

from dujiang.engines.contract import End

WAITS: Final = frozenset({"PENDING", "CONFIGURING", "REQUEUE_HOLD", "REQUEUED", "REQUEUE_FED", "RESV_DEL_HOLD"})
"""Slurm has it, and no process of it is to be expected."""
RUNS: Final = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
"""Processes of it are there, or may be."""

ENDS: Final[Mapping[str, tuple[End, End]]] = {
    "BOOT_FAIL": (End.NODE_LOST, End.NODE_LOST),
    "CANCELLED": (End.STOPPED, End.STOPPED),
    "COMPLETED": (End.LAUNCH_FAILED, End.LOST),
    "DEADLINE": (End.TIME_LIMIT, End.TIME_LIMIT),
    "FAILED": (End.LAUNCH_FAILED, End.LOST),
    "LAUNCH_FAILED": (End.LAUNCH_FAILED, End.NODE_LOST),
    "NODE_FAIL": (End.NODE_LOST, End.NODE_LOST),
    "OUT_OF_MEMORY": (End.OUT_OF_MEMORY, End.OUT_OF_MEMORY),
    "PREEMPTED": (End.PREEMPTED, End.PREEMPTED),
    "RECONFIG_FAIL": (End.NODE_LOST, End.NODE_LOST),
    "REVOKED": (End.LOST, End.LOST),
    "SPECIAL_EXIT": (End.LOST, End.LOST),
    "TIMEOUT": (End.TIME_LIMIT, End.TIME_LIMIT),
}
"""Of a state that Slurm ends in: what it means before our runner began, and after, when that left no end of its own."""

_SENT_BY_SLURM: Final = frozenset({signal.SIGTERM, signal.SIGKILL, signal.SIGXCPU, signal.SIGCONT})
_EXPLAIN_A_SIGNAL: Final = frozenset(
    {"BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
)


def base_state(text: str) -> str:
    """Return the state alone of `CANCELLED by 1000`, `CANCELLED+` or `COMPLETED`."""
    words = text.strip().split()
    return words[0].rstrip("+").upper() if words else ""


def is_over(state: str) -> bool:
    """Say whether Slurm has nothing more to do for a job in this state; empty is a job it no longer knows."""
    return state not in WAITS and state not in RUNS


def end_of(state: str, *, began: bool) -> End:
    """Return what a job's last state means, where its runner wrote no end; a state that is not known is a loss."""
    before, after = ENDS.get(state, (End.LOST, End.LOST))
    return after if began else before


def is_open(end: Mapping[str, Any]) -> bool:
    """Say whether an end that the runner wrote leaves open who sent the signal: then Slurm is asked.

    Slurm signals all processes of a job: where a shell's command dies first, the shell exits with 128 and the signal.
    """
    if end["end"] == End.EXITED and end["exit_code"] is not None:
        return end["exit_code"] - 128 in _SENT_BY_SLURM
    return end["end"] == End.LOST or (end["end"] == End.SIGNALED and end["signal"] in _SENT_BY_SLURM)


def closed(end: Mapping[str, Any], state: str) -> dict[str, Any]:
    """Return the runner's end with what Slurm's last state adds; as it was, where that explains no signal."""
    if state not in _EXPLAIN_A_SIGNAL:
        return dict(end)
    return {**end, "end": str(end_of(state, began=True)), "evidence": [*end["evidence"], said(state)]}


def said(state: str, more: str = "") -> list[Any]:
    """Return Slurm's state as evidence."""
    told = f"Slurm says {state}" if state else "Slurm no longer knows the job"
    return ["engine", f"{told}{': ' if more else ''}{more}", None]

"""A batch job in the words of slurmrestd, and its answers in ours: pure. The words changed with v0.0.40.

Up to v0.0.38 a job's keys are those of the options of `sbatch`: `nodelist` and `no_requeue` are taken, though not
described, while a signal before the end goes to steps only and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dujiang.engines.slurm import words
from dujiang.engines.slurm.asking import Batch, gres
from dujiang.engines.slurm.reading import Reservation, SlurmNode, expand, gres_of

_FIRST = (
    "COMPLETING",
    "CONFIGURING",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "REQUEUED",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "RESIZING",
)
"""Flags that say more than the state beside which they stand."""


def is_old(version: str) -> bool:
    """Say whether a version is one of those before v0.0.40."""
    return int(version.rpartition(".")[2]) < 40


def submission(batch: Batch, script: str, environ: Mapping[str, str], version: str) -> dict[str, Any]:
    """Return the body of a submission."""
    job = _old_job(batch, environ) if is_old(version) else _job(batch, environ)
    named = {"partition": batch.partition, "account": batch.account, "qos": batch.qos,
             "reservation": batch.reservation}  # fmt: skip
    return {"script": script, "job": {**job, **{name: value for name, value in named.items() if value}}}


def _job(batch: Batch, environ: Mapping[str, str]) -> dict[str, Any]:
    each, count = batch.each, len(batch.nodes)
    job: dict[str, Any] = {
        "name": batch.name, "comment": batch.comment, "nodes": str(count),
        "tasks": count, "tasks_per_node": 1, "cpus_per_task": each.cpus, "requeue": False, "open_mode": "APPEND",
        "standard_output": batch.output, "current_working_directory": batch.folder,
        "environment": [f"{name}={value}" for name, value in environ.items()], "kill_warning_signal": "USR2",
        "kill_warning_delay": _number(batch.warning_s), "kill_warning_flags": ["BATCH_JOB"],
    }  # fmt: skip
    if batch.elsewhere is None:
        job["required_nodes"] = list(batch.nodes)
    else:
        named = {"constraints": "&".join(batch.elsewhere.features), "excluded_nodes": list(batch.elsewhere.never)}
        job |= {name: value for name, value in named.items() if value}
    if each.memory_mib:
        job["memory_per_node"] = _number(each.memory_mib)
    if asked := gres(each):
        job["tres_per_node"] = ",".join(f"gres/{part}" for part in asked)
    if batch.limit_min is not None:
        job["time_limit"] = _number(batch.limit_min)
    return job


def _old_job(batch: Batch, environ: Mapping[str, str]) -> dict[str, Any]:
    each, count = batch.each, len(batch.nodes)
    job: dict[str, Any] = {
        "name": batch.name, "comment": batch.comment, "nodes": [count, count],
        "tasks": count, "tasks_per_node": 1, "cpus_per_task": each.cpus, "no_requeue": True, "open_mode": "append",
        "standard_output": batch.output, "current_working_directory": batch.folder, "environment": dict(environ),
    }  # fmt: skip
    if batch.elsewhere is None:
        job["nodelist"] = ",".join(batch.nodes)
    else:
        named = {"constraints": "&".join(batch.elsewhere.features), "exclude_nodes": ",".join(batch.elsewhere.never)}
        job |= {name: value for name, value in named.items() if value}
    if each.memory_mib:
        job["memory_per_node"] = each.memory_mib
    if asked := gres(each):
        job["gres"] = ",".join(asked)
    if batch.limit_min is not None:
        job["time_limit"] = batch.limit_min
    return job


def release_of(told: Mapping[str, Any]) -> str:
    """Return the release of Slurm that any answer tells; empty where it does not."""
    meta = told.get("meta") or {}
    return str((meta.get("slurm") or meta.get("Slurm") or {}).get("release") or "")


def jobs_of(told: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield number, state, user, reason and comment of each job: `/jobs`, or `/jobs/state/`, which tells only two."""
    for each in told.get("jobs") or []:
        number = str(each.get("job_id", ""))
        if number.isdigit():
            state = state_of(each.get("job_state", each.get("state")))
            user, reason, comment = (str(each.get(name) or "") for name in ("user_name", "state_reason", "comment"))
            yield number, state, user, reason, comment


def state_of(told: object) -> str:
    """Return one state of a text, or of a list of a state and flags."""
    if isinstance(told, str):
        return words.base_state(told)
    states = [str(each).upper() for each in told] if isinstance(told, Sequence) else []
    return next((flag for flag in _FIRST if flag in states), states[0] if states else "")


def why_of(job: Mapping[str, Any]) -> str:
    """Return what a job says of its state, for evidence."""
    code = job.get("exit_code")
    if isinstance(code, Mapping):
        signal = code.get("signal") or {}
        code = f"{whole(code.get('return_code'))}:{whole(signal.get('id', signal.get('signal_id')))}"
    return f"reason {job.get('state_reason') or ''}, exit code {code}"


def node_of(told: Mapping[str, Any]) -> SlurmNode:
    """Return a node."""
    state, flags = told.get("state"), told.get("state_flags") or []
    states = [state, *flags] if isinstance(state, str) else list(state or [])
    return SlurmNode(
        name=str(told["name"]),
        address=str(told.get("address") or told["name"]),
        states=frozenset(str(each).upper() for each in states),
        reason=str(told.get("reason") or ""),
        cpus=whole(told.get("effective_cpus")) or whole(told.get("cpus")),
        cpus_used=whole(told.get("alloc_cpus")),
        memory_mib=whole(told.get("real_memory")),
        memory_used_mib=whole(told.get("alloc_memory")),
        disk_mib=whole(told.get("temporary_disk")),
        gres=gres_of(str(told.get("gres") or "")),
        gres_used=gres_of(str(told.get("gres_used") or "")),
        features=_listed(told.get("active_features")),
        partitions=_listed(told.get("partitions")),
    )


def reservation_of(told: Mapping[str, Any]) -> Reservation:
    """Return a reservation."""
    nodes = tuple(expand(str(told.get("node_list") or "")))
    return Reservation(str(told["name"]), nodes, whole(told.get("start_time")), whole(told.get("end_time")))


def whole(told: object) -> int:
    """Return a number of `7` or of `{"set": true, "number": 7}`; 0 where none is set."""
    if isinstance(told, Mapping):
        return int(told.get("number") or 0) if told.get("set", True) and not told.get("infinite") else 0
    return int(told) if isinstance(told, int | float) else 0


def _listed(told: object) -> tuple[str, ...]:
    if isinstance(told, str):
        return tuple(part for part in told.split(",") if part)
    return tuple(str(each) for each in told) if isinstance(told, Sequence) else ()


def _number(value: int) -> dict[str, Any]:
    return {"set": True, "number": value}

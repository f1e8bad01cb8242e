"""Turns a launch into what the supervisor reads, and refuses what could never run: pure but for a look at a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from dujiang.engines.contract import AttemptKey, EngineRefused, Launch, NodeRefused
from dujiang.engines.local.containers import Runtime
from dujiang.engines.local.home import Home
from dujiang.engines.local.limits import LimitPlan
from dujiang.engines.local.settings import LocalSettings

_JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,119}")
_LONGEST_VARIABLE = 128 * 1024 - 1
_MOST_ENVIRONMENT = 1 << 20
_MOST_PORTS = 64
_MOST_RANKS = 1024


def refuse_bad_name(key: AttemptKey) -> None:
    """Raise where the key cannot name files, groups and marks.

    Raises:
        EngineRefused: with what a name may hold.
    """
    if not _JOB_ID.fullmatch(key.job_id) or key.number < 1:
        raise EngineRefused(f"{str(key)!r} cannot name an attempt: letters, digits, - and _, and a number from 1")


def refuse_impossible(launch: Launch, *, node: str, devices: Collection[str], no_images: str = "") -> None:
    """Raise where no machine of this kind could ever run the launch; `no_images` says why it runs none, if so.

    Raises:
        EngineRefused: with what to change.
    """
    if not launch.ranks or [rank.rank for rank in launch.ranks] != list(range(len(launch.ranks))):
        raise EngineRefused("the ranks must be numbered from 0 without a gap")
    if len(launch.ranks) > _MOST_RANKS or not 0 <= launch.ports <= _MOST_PORTS:
        raise EngineRefused(f"at most {_MOST_RANKS} ranks and {_MOST_PORTS} ports a job run on one machine")
    for rank in launch.ranks:
        if rank.node != node:
            raise NodeRefused(f"there is no node {rank.node!r} here, only {node!r}")
        for device in rank.devices:
            if device.name not in devices:
                raise NodeRefused(f"node {node!r} has no device {device.name!r}")
    if launch.image is not None and no_images:
        raise EngineRefused(no_images)
    for what, text in (("run", launch.run), ("setup", launch.setup), ("workdir", launch.workdir or "")):
        if "\0" in text:
            raise EngineRefused(f"`{what}` holds a NUL character, which no command line can carry")
    if launch.workdir is not None and not launch.workdir.startswith("/"):
        raise EngineRefused(f"workdir {launch.workdir!r} must be absolute")
    if launch.workdir is not None and not os.path.isdir(launch.workdir):  # a further attempt would not find it either
        raise EngineRefused(
            f"the folder {launch.workdir} (`workdir`) is not there on this machine: make it before the job starts, or"
            " change `workdir`"
        )
    _check_environment({**launch.env, **launch.secrets})


def describe(
    launch: Launch, *, home: Home, plan: LimitPlan, mps: str | None, settings: LocalSettings,
    runtime: Runtime | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the launch record: everything but the secrets."""
    key = str(launch.key)
    return {
        "key": key,
        "mark": home.mark,
        "name": launch.name,
        "project": launch.project,
        "run": launch.run,
        "setup": launch.setup,
        "ranks": [asdict(rank) for rank in launch.ranks],
        "env": dict(launch.env),
        "image": _image(launch.image, runtime, settings) if launch.image and runtime else None,
        "workdir": launch.workdir or home.work(key),
        "own_workdir": launch.workdir is None,
        "checkpoint": asdict(launch.checkpoint) if launch.checkpoint else None,
        "time_limit_s": launch.time_limit_s,
        "grace_s": launch.grace_s,
        "ports": launch.ports,
        "inputs": [asdict(wanted) for wanted in launch.inputs],
        "record_environment": launch.record_environment,
        "processes_limit": launch.processes_limit,
        "labels": dict(launch.labels),
        "limits": {"by": plan.by, "parents": dict(plan.parents)},
        "mps": mps,
        "shell": settings.shell,
        "hash_limit_bytes": settings.hash_limit_bytes,
    }


def _image(reference: str, runtime: Runtime, settings: LocalSettings) -> dict[str, Any]:
    return {"reference": reference, "runtime": asdict(runtime), "mounts": list(settings.container_mounts)}


def _check_environment(environment: Mapping[str, str]) -> None:
    total = 0
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise EngineRefused(f"the variable {name!r} has a name or a value that no environment can carry")
        size = len(name.encode(errors="surrogateescape")) + len(value.encode(errors="surrogateescape")) + 2
        total += size
        if size > _LONGEST_VARIABLE:
            raise EngineRefused(f"the variable {name!r} has {size} bytes, Linux takes {_LONGEST_VARIABLE}: use a file")
    if total > _MOST_ENVIRONMENT:
        raise EngineRefused(f"the environment has {total} bytes, at most {_MOST_ENVIRONMENT} are taken: use a file")

"""What Slurm's accounting (slurmdbd) says of our jobs, for the comparison with the ledger.

Slurm keeps comments in its accounts only where the site says so (`AccountingStoreFlags=job_comment`). Without them a
job is ours by its name and its folder, which are those that we gave it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from dujiang.engines.contract import Accounted, AttemptKey
from dujiang.engines.slurm import reading, words

FIELDS = ("JobIDRaw", "State", "Start", "End", "ElapsedRaw", "AllocCPUS", "AllocTRES", "NodeList", "Comment",
          "WorkDir", "JobName")  # fmt: skip
TIMES = {"SLURM_TIME_FORMAT": "%s"}
"""Makes `sacct` write moments as seconds since 1970: local times are told twice when summer ends."""
NAME = "dj-"
"""Begins the names of our jobs."""


def asked(since: datetime, until: datetime) -> list[str]:
    """Return the options of `sacct` that list every job in a time, also those that were requeued."""
    span = [f"--starttime=uts{int(since.timestamp())}", f"--endtime=uts{int(until.timestamp()) + 1}"]
    return ["-X", "-n", "-P", "-D", "-a", *span, f"--format={','.join(FIELDS)}"]


def accounted(text: str, mark: str, work_dir: str) -> Iterator[Accounted]:
    """Yield our jobs of what `sacct` printed.

    Args:
        text: its lines.
        mark: what our comments bear.
        work_dir: the folder in which our jobs begin.
    """
    for line in text.splitlines():
        told = dict(zip(FIELDS, line.split("|", len(FIELDS) - 1), strict=False))
        key = _key(told, mark, work_dir) if len(told) == len(FIELDS) else None
        if key is None:
            continue
        started_at = _moment(told["Start"])
        gpus = {name: count for name, count in _tres(told["AllocTRES"]) if name.startswith("gres/gpu")}
        yield Accounted(
            key=key,
            job=told["JobIDRaw"],
            state=words.base_state(told["State"]),
            started_at=started_at,
            ended_at=_moment(told["End"]) if started_at else None,
            elapsed_s=float(told["ElapsedRaw"]) if told["ElapsedRaw"].isdigit() and started_at else 0.0,
            cpu_milli=1000 * int(told["AllocCPUS"]) if told["AllocCPUS"].isdigit() else 0,
            devices=gpus.get("gres/gpu", sum(count for name, count in gpus.items() if ":" in name)),
            nodes=tuple(reading.expand(told["NodeList"])) if started_at else (),
        )


def _key(told: dict[str, str], mark: str, work_dir: str) -> AttemptKey | None:
    if told["Comment"].startswith("dujiang:"):
        name, _, key = told["Comment"].removeprefix("dujiang:").partition(":")
        named = key if name == mark else ""
    else:
        named = told["JobName"].removeprefix(NAME)
        if not told["JobName"].startswith(NAME) or told["WorkDir"].rstrip("/") != work_dir.rstrip("/"):
            return None
    try:
        return AttemptKey.parse(named)
    except ValueError:
        return None


def _moment(text: str) -> datetime | None:
    return datetime.fromtimestamp(int(text), UTC) if text.isdigit() and int(text) > 0 else None


def _tres(text: str) -> Iterator[tuple[str, int]]:
    for part in text.split(","):
        name, _, count = part.partition("=")
        if count.isdigit():
            yield name, int(count)

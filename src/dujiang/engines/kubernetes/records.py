"""The record of an attempt in the cluster: one ConfigMap, which owns everything else that is made for it. Pure.

Its name follows from the attempt's key, so that making it twice is a conflict and not a second run. It holds the launch
and the texts that Pods run; its annotations hold what must outlive the Pods: that all of them were made, that a stop
was asked for, and, in its data, the end once that is known. A forgotten attempt leaves it empty behind, with a label,
so that a late submit of the same key still does nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final

import orjson

from dujiang.engines.contract import AttemptKey, EngineRefused, Launch
from dujiang.engines.kubernetes.namespaces import MANAGED_BY, MANAGER

MARK: Final = "dujiang.io/mark"
"""Label of everything that one platform made in this cluster."""
JOB: Final = "dujiang.io/job"
ATTEMPT: Final = "dujiang.io/attempt"
RANK: Final = "dujiang.io/rank"
KIND: Final = "dujiang.io/kind"
"""Label of ConfigMaps: `attempt`, or `runner`."""
FORGOTTEN: Final = "dujiang.io/forgotten"
"""Label of the record of a forgotten attempt: the day, as 20260131."""
KEY: Final = "dujiang.io/key"
"""Annotation: the attempt's key, whole."""
MADE: Final = "dujiang.io/made"
"""Annotation: all Pods were made; one that is not there was taken away and is never made again."""
STOP: Final = "dujiang.io/stop"
"""Annotation: why and by when the attempt is to end."""

_STANDARD = re.compile(r"[a-z]{2,8}_[0-9a-z]{26}")
_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,119}")
_LONGEST_SLUG = 32
_MOST_BYTES = 900_000
"""A ConfigMap takes 1 MiB."""
VERDICT: Final = "verdict.json"


@dataclass(frozen=True, slots=True)
class Stop:
    """That an attempt is to end, and by when; microseconds since 1970 by the platform's clock."""

    cause: str
    """`asked`; `start` where it waited too long for its start."""
    at_us: int
    deadline_us: int
    why: str = ""

    def sooner(self, other: Stop | None) -> Stop:
        """Return the stop that counts of two: the first asked, with the earlier end."""
        if other is None:
            return self
        first = min(self, other, key=lambda stop: stop.at_us)
        return replace(first, deadline_us=min(self.deadline_us, other.deadline_us))


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a record, small enough for tens of thousands."""

    key: AttemptKey
    namespace: str
    name: str
    uid: str
    version: str
    launch: Mapping[str, Any]
    is_made: bool
    stop: Stop | None
    verdict: Mapping[str, Any] | None
    is_forgotten: bool = False

    @property
    def path(self) -> str:
        """Return where the API server has it."""
        return f"/api/v1/namespaces/{self.namespace}/configmaps/{self.name}"

    @property
    def ranks(self) -> int:
        """Return how many Pods it has."""
        return len(self.launch["nodes"])

    def pod(self, rank: int) -> str:
        """Return the name of a rank's Pod."""
        return f"{self.name}-{rank}"

    def pod_path(self, rank: int) -> str:
        """Return where the API server has a rank's Pod."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}-{rank}"


def refuse_bad_key(key: AttemptKey) -> None:
    """Raise where the key cannot name anything.

    Raises:
        EngineRefused: with what a name may hold.
    """
    if not _JOB_ID.fullmatch(key.job_id) or not 1 <= key.number < 1_000_000:
        raise EngineRefused(f"{str(key)!r} cannot name an attempt: letters, digits, - and _, and a number from 1.")


def name_of(key: AttemptKey) -> str:
    """Return the name of an attempt's record, 52 characters at most; no two keys share one.

    Identifiers that the platform makes are kept, with `_` as `-`; of others a hash is part of the name.
    """
    slug = key.job_id.lower().replace("_", "-")
    if not _STANDARD.fullmatch(key.job_id):
        digest = hashlib.sha256(key.job_id.encode()).hexdigest()[:10]
        slug = f"{slug[:_LONGEST_SLUG].strip('-') or 'job'}--{digest}"
    return f"dj-{slug}-{key.number}"


def labels_of(mark: str, key: AttemptKey) -> dict[str, str]:
    """Return the labels of everything that is made for an attempt."""
    job = key.job_id if len(key.job_id) <= 63 and key.job_id[-1] not in "-_" and key.job_id[0] != "_" else ""
    return {MANAGED_BY: MANAGER, MARK: mark, ATTEMPT: str(key.number), **({JOB: job} if job else {})}


def manifest(
    launch: Launch, mark: str, namespace: str, *, at_us: int, script: Mapping[str, str], facts: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """Return the record of an attempt that is about to be made.

    Args:
        launch: what is asked.
        mark: of this platform.
        namespace: of the project.
        at_us: now, in microseconds since 1970.
        script: files that Pods get beside the runner.
        facts: of the launch, what observing needs later.

    Raises:
        EngineRefused: it is too large for a ConfigMap.
    """
    data = {
        "launch.json": orjson.dumps(
            {
                "nodes": [rank.node for rank in launch.ranks],
                "grace_s": launch.grace_s, "time_limit_s": launch.time_limit_s, "name": launch.name,
                "project": launch.project, "at_us": at_us, **facts,
            }
        ).decode(),
        **script,
    }  # fmt: skip
    size = sum(len(text.encode(errors="surrogatepass")) for text in data.values())
    if size > _MOST_BYTES:
        raise EngineRefused(
            f"`run`, `setup` and what is known of the job take {size} bytes, and a ConfigMap holds {_MOST_BYTES}: put"
            " what is long into the image or onto a volume."
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name_of(launch.key),
            "namespace": namespace,
            "labels": {**labels_of(mark, launch.key), KIND: "attempt"},
            "annotations": {KEY: str(launch.key)},
        },
        "data": data,
    }


def reduce_record(obj: Mapping[str, Any]) -> Record | None:
    """Return what is kept of a record; None of a ConfigMap that is none."""
    meta, data = obj["metadata"], obj.get("data") or {}
    notes, labels = meta.get("annotations") or {}, meta.get("labels") or {}
    if KEY not in notes:
        return None
    is_forgotten = FORGOTTEN in labels
    if not is_forgotten and "launch.json" not in data:
        return None
    stop = notes.get(STOP)
    return Record(
        key=AttemptKey.parse(notes[KEY]),
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        version=meta["resourceVersion"],
        launch={} if is_forgotten else orjson.loads(data["launch.json"]),
        is_made=MADE in notes,
        stop=Stop(**orjson.loads(stop)) if stop else None,
        verdict=orjson.loads(data[VERDICT]) if VERDICT in data else None,
        is_forgotten=is_forgotten,
    )


def made(record: Record) -> dict[str, Any]:
    """Return the change that says that all Pods were made, of exactly this version."""
    return {"metadata": {"resourceVersion": record.version, "annotations": {MADE: "yes"}}}


def stopped(record: Record, stop: Stop) -> dict[str, Any]:
    """Return the change that writes a stop down, of exactly this version."""
    text = orjson.dumps(asdict(stop)).decode()
    return {"metadata": {"resourceVersion": record.version, "annotations": {STOP: text}}}


def judged(record: Record, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the change that writes the end down, of exactly this version."""
    text = orjson.dumps(verdict).decode()
    return {"metadata": {"resourceVersion": record.version}, "data": {VERDICT: text}}


def forgotten(record: Record, now: datetime, files: Sequence[str]) -> dict[str, Any]:
    """Return the change that leaves nothing of an attempt but that it was."""
    gone = dict.fromkeys(("launch.json", VERDICT, *files))
    labels = {FORGOTTEN: now.strftime("%Y%m%d")}
    return {
        "metadata": {"resourceVersion": record.version, "labels": labels, "annotations": {STOP: None, MADE: None}},
        "data": gone,
    }


def owner(record: Record) -> list[dict[str, Any]]:
    """Return the `ownerReferences` of what is made for an attempt."""
    return [{"apiVersion": "v1", "kind": "ConfigMap", "name": record.name, "uid": record.uid}]

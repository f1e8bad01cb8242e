"""The record of an attempt in the cluster: the Pod of its first rank, which owns everything else made for it. Pure.

Its name follows from the attempt's key, so that making it twice is a conflict and not a second run. Its annotations
hold the launch, that all of the attempt was made, that a stop was asked for, and at last the end. A finalizer holds it,
whoever deletes it, until the attempt is forgotten. What is left then is a small ConfigMap, its tombstone, so that a
late submit of the same key does nothing: a Pod that is made in spite of it finds it in its volume, and runs nothing.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
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
"""Label of ConfigMaps: `files`, `forgotten` or `runner`; of a job's Service: `service`."""
SERVED: Final = "dujiang.io/service"
"""Label of Pods that answer behind their job's Service: its name."""
FORGOTTEN: Final = "dujiang.io/forgotten"
"""Label of the tombstone of a forgotten attempt: the day, as 20260131."""
KEY: Final = "dujiang.io/key"
"""Annotation: the attempt's key, whole."""
MADE: Final = "dujiang.io/made"
"""Annotation: all of the attempt was made; a Pod that is not there was taken away and is never made again."""
STOP: Final = "dujiang.io/stop"
"""Annotation: why and by when the attempt is to end."""
LAUNCH: Final = "dujiang.io/launch"
"""Annotation of the record: what was asked for, as far as observing needs it."""
VERDICT: Final = "dujiang.io/verdict"
"""Annotation of the record: how the attempt ended."""
FILE: Final = "dujiang.io/file."
"""Annotations of Pods: with a name after it, a file that lies beside the runner."""
KEEP: Final = "dujiang.io/kept"
"""Finalizer of our Pods: one that somebody deletes still shows its end until it was read, a record until forgotten."""
GATE: Final = "dujiang.io/gang"
"""Scheduling gate of Pods until all of their attempt was made; what is one Pod and nothing else needs none."""
TOMBSTONE: Final = "forgotten"
"""Key in the ConfigMap that a forgotten attempt leaves, and the file in whose presence no runner runs anything."""

_STANDARD = re.compile(r"[a-z]{2,8}_[0-9a-z]{26}")
_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,119}")
_LONGEST_SLUG = 32
_MOST_BYTES = 900_000
"""A ConfigMap takes 1 MiB."""
_MOST_IN_PODS = 64 << 10
"""Bytes of files that all Pods of an attempt hold together; the annotations of one may have 256 KiB."""
_UNTOLD: Final[Mapping[str, Any]] = {
    "time_limit_s": None, "ports": [], "waits_for_go": False, "has_secrets": False, "has_service": False,
    "lineage": {},
}  # fmt: skip
"""What a record of a launch means where it says nothing."""
_MOST_FACTS = 100_000
"""Bytes of a verdict; of a larger one the facts are left out."""


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
    """Of the attempt: what belongs to it has names that begin so."""
    uid: str
    version: str
    launch: Mapping[str, Any]
    is_made: bool
    stop: Stop | None
    verdict: Mapping[str, Any] | None

    @property
    def path(self) -> str:
        """Return where the API server has it."""
        return self.pod_path(0)

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
    """Return the name of an attempt, 52 characters at most; no two keys share one.

    Identifiers that the platform makes are kept, with `_` as `-`; of others a hash is part of the name.
    """
    return f"{job_name_of(key.job_id)}-{key.number}"


def job_name_of(job_id: str) -> str:
    """Return the name of what belongs to a job, whichever attempt of it runs; no two jobs share one."""
    slug = job_id.lower().replace("_", "-")
    if not _STANDARD.fullmatch(job_id):
        digest = hashlib.sha256(job_id.encode()).hexdigest()[:10]
        slug = f"{slug[:_LONGEST_SLUG].strip('-') or 'job'}--{digest}"
    return f"dj-{slug}"


def labels_of(mark: str, key: AttemptKey) -> dict[str, str]:
    """Return the labels of everything that is made for an attempt."""
    return {**job_labels_of(mark, key.job_id), ATTEMPT: str(key.number)}


def job_labels_of(mark: str, job_id: str) -> dict[str, str]:
    """Return the labels of what is made for a job, whichever attempt of it runs."""
    job = job_id if len(job_id) <= 63 and job_id[-1] not in "-_" and job_id[0] != "_" else ""
    return {MANAGED_BY: MANAGER, MARK: mark, **({JOB: job} if job else {})}


def notes_of(launch: Launch, *, at_us: int, facts: Mapping[str, Any], is_made: bool) -> dict[str, str]:
    """Return the annotations that make the Pod of a first rank the record of its attempt.

    Args:
        launch: what is asked.
        at_us: now, in microseconds since 1970.
        facts: of the launch, what observing needs later.
        is_made: whether this Pod is all that is made of it.
    """
    told = {
        "nodes": [rank.node for rank in launch.ranks], "grace_s": launch.grace_s, "time_limit_s": launch.time_limit_s,
        "name": launch.name, "project": launch.project, "at_us": at_us, **facts,
    }  # fmt: skip
    told = {name: value for name, value in told.items() if name not in _UNTOLD or value != _UNTOLD[name]}
    return {LAUNCH: orjson.dumps(told).decode(), **({MADE: "yes"} if is_made else {})}


def fit_in_pods(files: Mapping[str, str], ranks: int) -> bool:
    """Say whether the files of an attempt are small enough to lie in its Pods' annotations, and need no ConfigMap.

    Raises:
        EngineRefused: they are too large for a ConfigMap too.
    """
    size = sum(len(text.encode(errors="surrogatepass")) for text in files.values())
    if size > _MOST_BYTES:
        raise EngineRefused(
            f"`run`, `setup` and what is known of the job take {size} bytes, and a ConfigMap holds {_MOST_BYTES}: put"
            " what is long into the image or onto a volume."
        )
    return size * ranks <= _MOST_IN_PODS


def reduce_record(obj: Mapping[str, Any]) -> Record | None:
    """Return what is kept of a record; None of a Pod that is none."""
    meta = obj["metadata"]
    notes = meta.get("annotations") or {}
    if LAUNCH not in notes or KEY not in notes:
        return None
    stop, verdict = notes.get(STOP), notes.get(VERDICT)
    return Record(
        key=AttemptKey.parse(notes[KEY]),
        namespace=sys.intern(meta["namespace"]),
        name=meta["name"].removesuffix("-0"),
        uid=meta["uid"],
        version=meta["resourceVersion"],
        launch={**_UNTOLD, **orjson.loads(notes[LAUNCH])},
        is_made=MADE in notes,
        stop=Stop(**orjson.loads(stop)) if stop else None,
        verdict=orjson.loads(verdict) if verdict else None,
    )


def made(record: Record) -> dict[str, Any]:
    """Return the change that says that all of an attempt was made and lets its first rank go, of exactly this version.

    The finalizer is put back where a submit that took the attempt away again was interrupted.
    """
    change = _change(record, MADE, "yes")
    change["metadata"]["finalizers"] = [KEEP]
    return {**change, "spec": {"schedulingGates": [{"$patch": "delete", "name": GATE}]}}


def stopped(record: Record, stop: Stop) -> dict[str, Any]:
    """Return the change that writes a stop down, of exactly this version."""
    return _change(record, STOP, orjson.dumps(asdict(stop)).decode())


def judged(record: Record, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the change that writes the end down, of exactly this version."""
    text = orjson.dumps(verdict)
    if len(text) > _MOST_FACTS:
        text = orjson.dumps({**verdict, "facts": {}})
    return _change(record, VERDICT, text.decode())


def _change(record: Record, note: str, text: str) -> dict[str, Any]:
    return {"metadata": {"uid": record.uid, "resourceVersion": record.version, "annotations": {note: text}}}


def tombstone(record: Record, mark: str, now: datetime) -> dict[str, Any]:
    """Return the ConfigMap that is left of a forgotten attempt: that it was."""
    labels = {**labels_of(mark, record.key), KIND: "forgotten", FORGOTTEN: now.strftime("%Y%m%d")}
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "immutable": True, "data": {TOMBSTONE: "yes"},
        "metadata": {
            "name": record.name, "namespace": record.namespace, "labels": labels,
            "annotations": {KEY: str(record.key)},
        },
    }  # fmt: skip


def reduce_tombstone(obj: Mapping[str, Any]) -> AttemptKey | None:
    """Return whose tombstone a ConfigMap is; None of one that is none."""
    note = (obj["metadata"].get("annotations") or {}).get(KEY)
    return AttemptKey.parse(note) if note else None


def owner(record: Record) -> list[dict[str, Any]]:
    """Return the `ownerReferences` of what is made for an attempt."""
    return [{"apiVersion": "v1", "kind": "Pod", "name": record.pod(0), "uid": record.uid}]

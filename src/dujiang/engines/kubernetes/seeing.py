"""What is kept of a Pod of ours: pure, and small, for tens of thousands of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from dujiang.engines.kubernetes.kueue import MANAGED
from dujiang.engines.kubernetes.others import DEVICES, KAI_GROUP
from dujiang.engines.kubernetes.records import KEEP, KEY, RANK, Record, reduce_record
from dujiang.kit.clock import to_micros

CONTAINER: Final = "job"

_DISRUPTIONS = ("DisruptionTarget", "TerminationTarget")
"""Conditions that say who takes a Pod away: Kubernetes' own, and Kueue's."""


@dataclass(frozen=True, slots=True)
class Box:
    """The state of a Pod's one container. Times are microseconds since 1970, to the second."""

    state: str = ""
    """`waiting`, `running`, `terminated`; empty before the kubelet has said anything."""
    reason: str = ""
    message: str = ""
    """Of one that has terminated: the runner's last word, where it left one."""
    code: int = 0
    started_us: int | None = None
    finished_us: int | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod of ours as the API server tells it."""

    namespace: str
    name: str
    uid: str
    key: str
    rank: int
    node: str
    """Empty until it is bound to one."""
    ip: str
    host_ip: str
    phase: str
    reason: str
    message: str
    gates: tuple[str, ...]
    is_kept: bool
    created_us: int
    deleted_us: int | None
    """When the grace of its deletion ends or ended; None: nobody has deleted it."""
    box: Box
    is_set_up: bool
    """Its start-up probe has passed: the setup is done."""
    waits: tuple[str, str, int] | None
    """Why it is not scheduled: reason, message, since when."""
    disrupted: tuple[str, str] | None
    """Who takes it away, and their words."""
    owner: str = ""
    """The uid of the record that it belongs to; empty of one that is a record itself."""
    record: Record | None = None
    slots: tuple[str, ...] = ()
    """The device slots that the platform gave it."""
    kai_group: str = ""
    """The device that it shares with other Pods under KAI."""
    is_queued: bool = False
    """Kueue manages it: it may have been held back."""
    bound_us: int | None = None
    """Since when it has its node, by the scheduler's word."""

    def is_of(self, record: Record) -> bool:
        """Say whether it belongs to a record, and not to one of the same name that is gone."""
        return record.uid == (self.owner or self.uid)

    @property
    def path(self) -> str:
        """Return where the API server has it."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    @property
    def is_over(self) -> bool:
        """Say whether nothing of it runs or ever will, by Kubernetes' word."""
        if self.phase in ("Succeeded", "Failed") or self.box.state == "terminated":
            return True
        return self.deleted_us is not None and not self.node  # what is bound to no node runs on none


def reduce_pod(obj: Mapping[str, Any]) -> Pod | None:
    """Return what is kept of a Pod; None of one that is not an attempt's."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    key, rank = (meta.get("annotations") or {}).get(KEY), (meta.get("labels") or {}).get(RANK)
    if key is None or rank is None:
        return None
    conditions = status.get("conditions") or ()
    boxes = status.get("containerStatuses") or ()
    found: Mapping[str, Any] = next((box for box in boxes if box.get("name") == CONTAINER), {})
    return Pod(
        namespace=sys.intern(meta["namespace"]), name=meta["name"], uid=meta["uid"],
        key=key, rank=int(rank), node=sys.intern(spec.get("nodeName") or ""),
        ip=status.get("podIP") or "", host_ip=status.get("hostIP") or "",
        phase=status.get("phase") or "Pending", reason=status.get("reason") or "", message=status.get("message") or "",
        gates=tuple(gate["name"] for gate in spec.get("schedulingGates") or ()),
        is_kept=KEEP in (meta.get("finalizers") or ()),
        created_us=_micros(meta.get("creationTimestamp")) or 0, deleted_us=_micros(meta.get("deletionTimestamp")),
        box=_box(found), is_set_up=bool(found.get("started")), waits=_waits(conditions),
        disrupted=_disrupted(conditions),
        owner=next((each["uid"] for each in meta.get("ownerReferences") or () if each.get("kind") == "Pod"), ""),
        record=reduce_record(obj) if rank == "0" else None,
        slots=tuple(filter(None, meta["annotations"].get(DEVICES, "").split(","))),
        kai_group=meta["labels"].get(KAI_GROUP, ""),
        is_queued=meta["labels"].get(MANAGED) == "true", bound_us=_bound(conditions),
    )  # fmt: skip


def _box(status: Mapping[str, Any]) -> Box:
    for name, told in (status.get("state") or {}).items():
        told = told or {}
        return Box(
            name, told.get("reason") or "", told.get("message") or "", int(told.get("exitCode") or 0),
            _micros(told.get("startedAt")), _micros(told.get("finishedAt")),
        )  # fmt: skip
    return Box()


def _waits(conditions: Sequence[Mapping[str, Any]]) -> tuple[str, str, int] | None:
    for each in conditions:
        if each.get("type") == "PodScheduled" and each.get("status") == "False":
            since_us = _micros(each.get("lastTransitionTime")) or 0
            return each.get("reason") or "", each.get("message") or "", since_us
    return None


def _bound(conditions: Sequence[Mapping[str, Any]]) -> int | None:
    for each in conditions:
        if each.get("type") == "PodScheduled" and each.get("status") == "True":
            return _micros(each.get("lastTransitionTime"))
    return None


def _disrupted(conditions: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    for each in conditions:
        if each.get("type") in _DISRUPTIONS and each.get("status") == "True":
            return each.get("reason") or "", each.get("message") or ""
    return None


def _micros(text: str | None) -> int | None:
    """Return microseconds of `2026-01-31T12:00:00Z`; None of nothing, and of the year 1 that stands for it."""
    if not text or text.startswith("0001-"):
        return None
    return to_micros(datetime.fromisoformat(text))

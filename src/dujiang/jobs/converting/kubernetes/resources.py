"""What a container asks for, in our resources: one figure each, devices whole or as a share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from dujiang.jobs.converting.amounts import BadAmount, quantity, up
from dujiang.jobs.converting.devices import SHARED, Kind, Shared, mig, whole
from dujiang.jobs.converting.draft import Draft
from dujiang.jobs.converting.parts import Part
from dujiang.jobs.converting.report import At
from dujiang.jobs.spec.model import exact_size
from dujiang.kit.spec.problems import quote

_MIB: Final = 2**20
_HAMI_SPLIT: Final = 100
"""Thousandths of a device for a share that names its memory alone: sharing systems put up to ten on a device."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One resource of a container."""

    amount: Decimal
    at: At
    path: str


def take_resources(container: Part, field: str, draft: Draft, annotations: Mapping[str, tuple[str, At]]) -> None:
    """Put what a container asks for into the draft.

    Args:
        container: holds the field.
        field: `resources`, or `resourcesPerNode` of a TrainJob.
        draft: takes `resources`, and `placement.isolation` of a share.
        annotations: of the Pod: KAI's share of a device stands there.
    """
    resources = container.part(field, "resources")
    asked = _asked(resources) if resources is not None else {}
    _amounts(asked, container, field, draft)
    _devices(asked, draft)
    _kai(annotations, draft)
    _tell_left(asked, draft)
    if resources is not None:
        resources.close({"claims": ("Devices are asked for by number, not by claims.", "Write resources: {gpu: ...}.")})


def _asked(resources: Part) -> dict[str, Asked]:
    """Return each resource once: its limit, else its request."""
    found: dict[str, Asked] = {}
    requests = resources.part("requests", "amounts by name")
    limits = resources.part("limits", "amounts by name")
    for part in (requests, limits):
        for name in part.names if part is not None else ():
            assert part is not None
            text = part.text(name) or ""
            try:
                amount = quantity(text)
            except BadAmount as error:
                raise part.report.refuse(
                    part.under(name), f"{quote(text)}: {error.sentence}", at=part.at(name)
                ) from error
            before = found.get(name)
            if before is not None and before.amount != amount:
                what = f"The job gets {text} of {name}, the limit."
                part.note(name, what, "There is one figure here, which is a promise and a limit.", kept=True)
            found[name] = Asked(amount, part.at(name), part.under(name))
    return found


def _amounts(asked: dict[str, Asked], container: Part, field: str, draft: Draft) -> None:
    missing = []
    for name, ours, default in (("cpu", "cpu", "1 core"), ("memory", "memory", "1GiB")):
        found = asked.pop(name, None)
        if found is None or found.amount == 0:
            missing.append(f"{default} of {name}" if name == "memory" else default)
            continue
        value = _milli(found.amount) if ours == "cpu" else exact_size(max(_MIB, up(found.amount)))
        draft.put(value, "resources", ours, at=found.at)
    if missing:
        what = f"The job gets {' and '.join(missing)}."
        why = "The container names no limit of its own, and takes what there is; a job here gets a certain amount."
        instead = "Write what it needs under resources."
        container.report.note(container.under(field), what, why, instead, at=container.at(field), kept=True)
    disk = asked.pop("ephemeral-storage", None)
    if disk is not None:
        draft.put(exact_size(up(disk.amount)), "resources", "disk", at=disk.at)


def _devices(asked: dict[str, Asked], draft: Draft) -> None:
    counted = [name for name in asked if whole(name) is not None and asked[name].amount]
    slices = [name for name in asked if mig(name) is not None and asked[name].amount]
    for name in (*counted, *slices)[1:]:
        found = asked.pop(name)
        why = "A job asks for one kind of device."
        draft.report.note(found.path, "Not kept.", why, "Write resources: {any_of: ...} or two jobs.", at=found.at)
    if counted:
        found, kind, shared = asked.pop(counted[0]), whole(counted[0]), SHARED.get(counted[0])
        assert kind is not None
        _whole_or_shared(found, kind, _shares(asked, shared) if shared else {}, shared, draft)
    elif slices:
        _mig_slice(slices[0], asked.pop(slices[0]), draft)


def _shares(asked: dict[str, Asked], shared: Shared) -> dict[str, Asked]:
    names = {"memory": shared.memory, "cores": shared.cores, "percentage": shared.memory_percentage}
    return {word: asked.pop(name) for word, name in names.items() if name in asked}


def _whole_or_shared(
    found: Asked, kind: Kind, shares: Mapping[str, Asked], shared: Shared | None, draft: Draft
) -> None:  # fmt: skip
    parts = {word: int(share.amount) for word, share in shares.items() if share.amount}
    is_part = bool(parts) and (parts.get("cores", 0) < 100 or "memory" in parts or parts.get("percentage", 100) < 100)
    if found.amount > 1 or not is_part or shared is None:
        for share in shares.values():
            why = "A job has a share of one device, or whole ones."
            draft.report.note(share.path, "The job gets whole devices.", why, at=share.at, kept=True)
        _put_gpu(draft, {"count": up(found.amount)}, kind, found.at)
        return
    milli = 10 * (parts.get("cores") or parts.get("percentage") or 0)
    if not milli:
        why = f"{shared.system} gives it so much memory and no certain part of the compute; up to ten share a device."
        draft.report.note(found.path, "The job gets a tenth of a device.", why, "Write gpu: {fraction: ...}.",
                          at=found.at, kept=True)  # fmt: skip
    gpu: dict[str, Any] = {"fraction": _fraction(milli or _HAMI_SPLIT)}
    if "memory" in parts:
        gpu["memory"] = exact_size(parts["memory"] * _MIB)
    _put_gpu(draft, gpu, kind, found.at)
    draft.put("enforced" if "cores" in parts else "memory", "placement", "isolation", at=found.at)


def _mig_slice(name: str, found: Asked, draft: Draft) -> None:
    slice_of = mig(name)
    assert slice_of is not None
    count = max(1, up(found.amount))
    milli, size = slice_of[0] * count, slice_of[1] * count
    why = "What is asked for is a share; how a device is divided is the cluster's."
    if milli >= 1000:
        draft.report.note(found.path, "The job gets a whole device.", why, at=found.at, kept=True)
        _put_gpu(draft, {"count": 1}, Kind("nvidia"), found.at)
        return
    what = f"The job gets {milli}/1000 of a device, and {exact_size(size)} of its memory."
    draft.report.note(found.path, what, why, at=found.at, kept=True)
    _put_gpu(draft, {"fraction": _fraction(milli), "memory": exact_size(size)}, Kind("nvidia"), found.at)
    draft.put("enforced", "placement", "isolation", at=found.at)


def _kai(annotations: Mapping[str, tuple[str, At]], draft: Draft) -> None:
    """KAI Scheduler and Run:ai write the share of a device into annotations."""
    for name in ("gpu-fraction", "gpu-memory"):
        if name not in annotations or draft.get("resources", "gpu") is not None:
            continue
        text, at = annotations[name]
        try:
            amount = quantity(text)
        except BadAmount as error:
            raise draft.report.refuse(f"metadata.annotations.{name}", error.sentence, at=at) from error
        if name == "gpu-memory":
            gpu = {"fraction": _fraction(_HAMI_SPLIT), "memory": exact_size(up(amount * _MIB))}
            why = "The annotation says how much memory and no part of the compute; here a share has both."
            instead = "Write gpu: {fraction: ...}."
            draft.report.note(f"metadata.annotations.{name}", "The job gets a tenth of a device.", why, instead,
                              at=at, kept=True)  # fmt: skip
        else:
            gpu = {"fraction": _fraction(up(amount * 1000))} if amount < 1 else {"count": up(amount)}
        draft.put(gpu, "resources", "gpu", at=at)


def _tell_left(asked: Mapping[str, Asked], draft: Draft) -> None:
    for name, found in asked.items():
        if not found.amount:
            continue
        why = f"{quote(name)} is no resource that the platform counts."
        instead = "Label the nodes that have it and write placement: {selector: ...}."
        draft.report.note(found.path, "Not kept.", why, instead, at=found.at)


def _put_gpu(draft: Draft, gpu: dict[str, Any], kind: Kind, at: At) -> None:
    model = {"model": kind.model} if kind.model else {}
    draft.put({**gpu, "vendor": kind.vendor, **model}, "resources", "gpu", at=at)


def _fraction(milli: int) -> int | float:
    return max(1, min(999, milli)) / 1000


def _milli(amount: Decimal) -> int | float:
    milli = max(10, up(amount * 1000))
    return milli // 1000 if milli % 1000 == 0 else milli / 1000

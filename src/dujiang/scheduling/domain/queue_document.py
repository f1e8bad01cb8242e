"""Queues as a document that people write: YAML or JSON in, a tree out, the same document out again, and differences.

In a document projects may be names or ids; whether there are such projects is for the service to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from dujiang.kit.spec.problems import Problem, Problems, Refused, SpecInvalid
from dujiang.kit.spec.readers import Choice, Field, Many, Quantity, Record, Table, Text
from dujiang.kit.spec.yaml import Located, documents, from_value
from dujiang.kit.units import MAX_BYTES, MAX_MILLI, format_bytes, format_milli, parse_bytes, parse_milli
from dujiang.scheduling.domain.queues import (
    MOST_QUEUES,
    MOST_WEIGHT,
    Limits,
    Queue,
    QueueTree,
    QuotaFlavor,
    QuotaLine,
    faults_of,
)

AMOUNTS: Final = ("gpu", "gpu_memory", "cpu", "memory")
"""As people write them, in the order of `RESOURCES`."""
_LINE: Final = ("nominal", "borrowing_limit", "lending_limit", "guarantee")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs between two trees."""

    what: str
    """`queues.vision.quota.h100.nominal.gpu`."""
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.what}: {self.after}"
        return (
            f"- {self.what}: {self.before}" if self.after is None else f"~ {self.what}: {self.before} -> {self.after}"
        )


class _Devices(StrEnum):
    ANY = "any"
    NONE = "none"


def parse_queues(source: str | bytes) -> QueueTree:
    """Return the tree of a YAML or JSON text.

    Raises:
        SpecInvalid: with every problem found, each with line and column.
    """
    problems = Problems()
    found = [one for one in documents(source, problems) if one.value is not None]
    if len(found) != 1:
        told = "There is nothing here." if not found else f"{len(found)} documents stand here; one holds all queues."
        raise SpecInvalid([Problem("", told, "Write flavors: and queues:, or queues: [] for none.")])
    return _read(found[0], problems)


def read_queues(document: Any) -> QueueTree:
    """Return the tree of a value decoded from JSON.

    Raises:
        SpecInvalid: with every problem found.
    """
    return _read(from_value(document), Problems())


def document_of(tree: QueueTree) -> dict[str, Any]:
    """Return the document of a tree; read again it gives an equal one."""
    return {
        "flavors": [_flavor_document(flavor) for flavor in tree.flavors],
        "queues": [_queue_document(queue) for queue in tree.queues],
    }


def differences(before: QueueTree, after: QueueTree) -> tuple[Difference, ...]:
    """Return what differs, in order of name."""
    old, new = dict(_flat(document_of(before))), dict(_flat(document_of(after)))
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return tuple(Difference(name, old.get(name), new.get(name)) for name in changed)


def _read(value: Located, problems: Problems) -> QueueTree:
    given: dict[str, Any] = {}
    try:
        given = _DOCUMENT.read(value, "", problems)
    except Refused:
        problems.raise_if_any()
    for fault in faults_of(given["queues"], given["flavors"]):
        problems.add(fault.place, fault.message, fault.instead, at=_place(value, fault.path))
    problems.raise_if_any()
    return QueueTree(given["queues"], given["flavors"])


def _place(value: Located, path: tuple[str | int, ...]) -> tuple[int | None, int | None]:
    """Return where the field of a path stands, or what of it there is."""
    at = value.at
    for part in path:
        inner = value.value
        if isinstance(part, int) and isinstance(inner, tuple) and part < len(inner):
            value = inner[part]
            at = value.at
        elif isinstance(part, str) and isinstance(inner, Mapping) and part in inner:
            at, value = inner[part].at, inner[part].value
        else:
            break
    return at


def _build_line(given: dict[str, Any], *_: Any) -> QuotaLine:
    return QuotaLine("", *(given.get(name, Limits()) for name in _LINE))


def _build_queue(given: dict[str, Any], *_: Any) -> Queue:
    lines = tuple(
        QuotaLine(flavor, line.nominal, line.borrowing_limit, line.lending_limit, line.guarantee)
        for flavor, line in given.get("quota", {}).items()
    )
    weight = given.get("weight", 1000) / 1000
    return Queue(
        given["name"], given.get("parent", ""), lines, weight, given.get("projects", ()), given.get("guests", ())
    )


def _build_flavor(given: dict[str, Any], *_: Any) -> QuotaFlavor:
    has_devices = given.get("devices", _Devices.ANY) is not _Devices.NONE
    return QuotaFlavor(
        given["name"], given.get("vendor", ""), given.get("model", ""), given.get("cluster", ""), has_devices
    )


_NAME = Text(
    "a name", 63, r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
    "A name has up to 63 lower-case letters, digits and dashes, with a letter or digit at both ends.",
)  # fmt: skip
_WORD = Text("a word", 64, r"[^\u0000]+")
_PROJECT = Text("a project's name or id", 64, r"[A-Za-z0-9][-_A-Za-z0-9]*", "`dujiang projects` lists them.")
_NUMBER = {"type": "number", "minimum": 0}
_COUNT = Quantity("an amount", parse_milli, 0, MAX_MILLI, format_milli, _NUMBER, "Write 8, 0.5 or 1/8.")
_SIZE = Quantity(
    "a size", parse_bytes, 0, MAX_BYTES, format_bytes, {"type": "string"}, "Write a unit: 640GiB, 16TiB."
)  # fmt: skip
_WEIGHT = Quantity(
    "a weight", parse_milli, 1, int(MOST_WEIGHT * 1000), format_milli, _NUMBER, "A weight is above 0; 1 is usual."
)  # fmt: skip
_AMOUNTS = Record(
    "amounts",
    [
        Field("gpu", _COUNT, "Devices, or shares of them."),
        Field("gpu_memory", _SIZE, "Memory of devices."),
        Field("cpu", _COUNT, "Cores."),
        Field("memory", _SIZE, "Memory of nodes."),
    ],
    lambda given, *_: Limits(*(given.get(name) for name in AMOUNTS)),
    {"gpus": "Write gpu.", "cpus": "Write cpu.", "cores": "Write cpu.", "mem": "Write memory."},
)
_QUOTA = Record(
    "a quota",
    [
        Field("nominal", _AMOUNTS, "What the queue has of its own."),
        Field("borrowing_limit", _AMOUNTS, "How much it may hold beyond that; left out: as much as there is."),
        Field("lending_limit", _AMOUNTS, "How much of its own others may use; left out: all of it."),
        Field("guarantee", _AMOUNTS, "What of its own it never loses to others; left out: all of it."),
    ],
    _build_line,
    dict.fromkeys(AMOUNTS, "Write it under nominal."),
)
_FLAVORS = Record(
    "a flavor",
    [
        Field("name", _NAME, "What the kind of device is called in quotas.", required=True, examples=["h100"]),
        Field("vendor", _WORD, "Of the devices; left out: any."),
        Field("model", _WORD, "Of the devices, or how it begins; left out: any."),
        Field("cluster", _WORD, "Only there; left out: anywhere."),
        Field("devices", Choice(_Devices), "none: work that asks for no device."),
    ],
    _build_flavor,
)
_QUEUE = Record(
    "a queue",
    [
        Field("name", _NAME, "What it is called.", required=True, examples=["vision"]),
        Field("parent", _NAME, "The queue above it; left out: it is at the top."),
        Field("weight", _WEIGHT, "Its share beside those with the same parent; left out: 1."),
        Field("projects", Many(_PROJECT, "projects", 10_000), "Whom it serves."),
        Field("guests", Many(_PROJECT, "projects", 10_000), "Projects of other queues whose jobs may name it."),
        Field("quota", Table(_NAME, _QUOTA, "flavors", 100), "What it has of each flavor."),
    ],
    _build_queue,
    {"children": "Write parent: in the queues below.", "lines": "Write quota.", "cohort": "Write parent."},
)
_DOCUMENT = Record(
    "the document",
    [
        Field("flavors", Many(_FLAVORS, "flavors", 100), "Kinds of devices; the first that matches counts."),
        Field("queues", Many(_QUEUE, "queues", MOST_QUEUES), "Write queues: [] for none.", required=True),
    ],
    lambda given, *_: {"flavors": given.get("flavors", ()), "queues": given["queues"]},
)


def _flavor_document(flavor: QuotaFlavor) -> dict[str, Any]:
    told = {"name": flavor.name, "vendor": flavor.vendor, "model": flavor.model, "cluster": flavor.cluster}
    bare = {} if flavor.has_devices else {"devices": str(_Devices.NONE)}
    return {name: value for name, value in told.items() if value} | bare


def _queue_document(queue: Queue) -> dict[str, Any]:
    document: dict[str, Any] = {"name": queue.name}
    if queue.parent:
        document["parent"] = queue.parent
    if queue.weight != 1:
        document["weight"] = _count(round(queue.weight * 1000))
    for name, projects in (("projects", queue.projects), ("guests", queue.guests)):
        if projects:
            document[name] = list(projects)
    if queue.lines:
        document["quota"] = {
            line.flavor: {
                name: amounts_document(getattr(line, name)) for name in _LINE if getattr(line, name) != Limits()
            }
            for line in queue.lines
        }
    return document


def amounts_document(limits: tuple[int | None, ...]) -> dict[str, Any]:
    """Return amounts as a document has them; what is None is left out."""
    show = (_count, _size, _count, _size)
    return {name: write(value) for name, write, value in zip(AMOUNTS, show, limits, strict=True) if value is not None}


def _count(milli: int) -> int | float:
    return milli / 1000 if milli % 1000 else milli // 1000


def _size(size: int) -> int | str:
    for unit, bits in (("TiB", 40), ("GiB", 30), ("MiB", 20)):
        if size and not size % 2**bits:
            return f"{size >> bits}{unit}"
    return size  # exact, where format_bytes rounds


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every fact of a document by name, so that two can be compared."""
    for part in ("flavors", "queues"):
        if names := [one["name"] for one in document[part]]:
            yield part, ", ".join(names)
        for one in document[part]:
            yield from _facts(f"{part}.{one['name']}", {"weight": 1, **one} if part == "queues" else one)


def _facts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        if not value:
            yield path, "nothing"
        for name, inner in value.items():
            if name != "name":
                yield from _facts(f"{path}.{name}", inner)
    else:
        yield path, ", ".join(value) if isinstance(value, list) else str(value)

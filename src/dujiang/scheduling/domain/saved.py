"""Snapshots as files: what was planned on can be kept, sent to someone else, and planned on and explained again.

A file holds every field of the snapshot by name, fleet and queues as what they are made of, and the time. Fields that
are left out take their defaults, unknown ones are refused, so a file says the same wherever it is read, or is not read
at all.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any, Final, get_args, get_origin

import cattrs
import numpy as np
import orjson
from cattrs import transform_error
from cattrs.cols import is_namedtuple, namedtuple_dict_structure_factory, namedtuple_dict_unstructure_factory
from cattrs.errors import ForbiddenExtraKeysError

from dujiang.kit.errors import DujiangError, Invalid
from dujiang.scheduling.domain.fleet import ClusterRow, Fleet, NodeRow, fleet_of_rows
from dujiang.scheduling.domain.plan import plan
from dujiang.scheduling.domain.queues import Queue, QueueTree, QuotaFlavor
from dujiang.scheduling.domain.rows import rows_of_fleet
from dujiang.scheduling.domain.snapshot import Snapshot

FORMAT: Final = "dujiang-snapshot"
VERSION: Final = 1
_GZIP: Final = b"\x1f\x8b"
_MOST_SHOWN: Final = 3
_WORDS: Final = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


class BadSnapshot(Invalid):
    """A file that is no snapshot, or a broken one."""

    code, title = "bad_snapshot", "The snapshot cannot be read"


@dataclass(frozen=True, slots=True)
class _Saved:
    """The file."""

    at: datetime
    snapshot: Snapshot
    format: str = FORMAT
    version: int = VERSION


def dump(snapshot: Snapshot, now: datetime) -> bytes:
    """Return a snapshot and its time as JSON text."""
    return orjson.dumps(_converter(False).unstructure(_Saved(now, snapshot)), option=orjson.OPT_NON_STR_KEYS)


def load(data: bytes) -> tuple[Snapshot, datetime]:
    """Return the snapshot and the time of a text that `dump` gave, compressed with gzip or not.

    `plan` and `explain` answer as they did for the snapshot that was dumped.

    Raises:
        BadSnapshot: it is none, of an unknown version, or broken; the sentence says where.
    """
    document = _document(data)
    try:
        saved = _converter(False).structure(document, _Saved)
    except Exception:  # what is wrong is asked for again, at twice the cost
        saved = _explained(document)
    _check(saved.snapshot)
    return saved.snapshot, saved.at


def summary(snapshot: Snapshot, now: datetime) -> dict[str, Any]:
    """Return what a snapshot holds, counted."""
    fleet = snapshot.fleet
    return {
        "at": f"{now:%Y-%m-%d %H:%M:%S}", "clusters": [cluster.name for cluster in fleet.clusters],
        "nodes": fleet.node_count, "open_nodes": int(fleet.node_open.sum()), "devices": fleet.device_count,
        "free_gpu_milli": int(np.where(fleet.device_open, snapshot.device_milli, 0).clip(0).sum()),
        "running": len(snapshot.holdings), "waiting": len(snapshot.requests),
        "starting": len(plan(snapshot, now, telling=False).starts),
    }  # fmt: skip


def _explained(document: dict[str, Any]) -> _Saved:
    try:
        return _converter(True).structure(document, _Saved)
    except Exception as error:  # whatever a hook or a `__post_init__` raised, gathered by cattrs
        problems = _problems(error)
        more = f" And {len(problems) - _MOST_SHOWN} more." if len(problems) > _MOST_SHOWN else ""
        raise BadSnapshot(
            "; ".join(one.rstrip(".") for one in problems[:_MOST_SHOWN]) + "." + more, problems=problems[:100]
        ) from error


def _document(data: bytes) -> dict[str, Any]:
    if data[:2] == _GZIP:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise BadSnapshot(f"The file is compressed and broken ({error}); save the snapshot again.") from error
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadSnapshot(f"The file is not JSON: {error.msg}, {where}. `dujiang snapshot save` writes one.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadSnapshot("The file is not a snapshot of Dujiang; `dujiang snapshot save FILE` writes one.")
    if document.get("version") != VERSION:
        raise BadSnapshot(
            f"The snapshot is of version {str(document.get('version'))[:20]}; this Dujiang reads version {VERSION}. "
            "Save it again, or use the Dujiang that wrote it."
        )
    return document


def _check(snapshot: Snapshot) -> None:
    """See that what is free is told of each node and device, and jobs once.

    Raises:
        BadSnapshot: it is not.
    """
    fleet = snapshot.fleet
    for name, shape in (
        ("node_free", (3, fleet.node_count)), ("device_milli", (fleet.device_count,)),
        ("device_memory", (fleet.device_count,)),
    ):  # fmt: skip
        found = getattr(snapshot, name).shape
        if found != shape:
            raise BadSnapshot(f"snapshot.{name}: it is {_times(found)} numbers, and the fleet needs {_times(shape)}.")
    for name in ("holdings", "requests"):
        seen: set[str] = set()
        for at, job in enumerate(getattr(snapshot, name)):
            if name == "requests" and job.job_id in seen:
                raise BadSnapshot(f"snapshot.{name}[{at}].job_id: {job.job_id} is there already.")
            seen.add(job.job_id)


# -- values -----------------------------------------------------------------------------------------------------------


@cache
def _converter(tells_where: bool) -> cattrs.Converter:
    """Return what turns values into JSON values and back, by their types; fields made by `__post_init__` stay out."""
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=tells_where)
    for plain in (int, float, str, bool):
        made.register_structure_hook(plain, _strict(plain))
    made.register_structure_hook(datetime, _moment)
    made.register_unstructure_hook(datetime, datetime.isoformat)
    made.register_structure_hook(Decimal, _amount)
    made.register_unstructure_hook(Decimal, str)
    made.register_structure_hook_func(_is_array, _array)
    made.register_unstructure_hook_func(_is_array, lambda value: value.tolist())
    made.register_structure_hook_func(_is_row, lambda value, kind: _row(made, value, kind))
    made.register_structure_hook_factory(
        is_namedtuple, lambda kind: namedtuple_dict_structure_factory(kind, made, tells_where, True)
    )
    made.register_unstructure_hook_factory(is_namedtuple, lambda kind: namedtuple_dict_unstructure_factory(kind, made))
    made.register_unstructure_hook(Fleet, lambda fleet: made.unstructure(_Rows(*rows_of_fleet(fleet)), _Rows))
    made.register_structure_hook(Fleet, lambda value, _: _fleet(made.structure(value, _Rows)))
    made.register_unstructure_hook(QueueTree, lambda tree: made.unstructure(_Queues(tree.queues, tree.flavors)))
    made.register_structure_hook(QueueTree, lambda value, _: _tree(made.structure(value, _Queues)))
    return made


def _strict(plain: type[Any]) -> Callable[[Any, Any], Any]:
    """Take values of exactly this type; a whole number for a float too."""

    def take(value: Any, kind: Any) -> Any:
        if issubclass(kind, Enum):  # cattrs takes a StrEnum for a text
            return _enum(value, kind)
        if type(value) is plain or (plain is float and type(value) is int):
            number = plain(value)
            if plain is float and not math.isfinite(number):
                raise ValueError("not a finite number")
            return number
        raise ValueError(f"{_shown(value)} is not {_WORDS[plain]}")

    return take


def _moment(value: Any, _: Any) -> datetime:
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"{_shown(value)} is not a time such as 2026-01-31T08:00:00+00:00") from None
    if at.tzinfo is None:
        raise ValueError(f"{value} has no time zone; write 2026-01-31T08:00:00+00:00")
    return at


def _amount(value: Any, _: Any) -> Decimal:
    if not isinstance(value, str) or not re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", value):
        raise ValueError(f'{_shown(value)} is not an amount such as "12.50"')
    return Decimal(value)


def _enum(value: Any, kind: type[Enum]) -> Enum:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{_shown(value)} is none of {', '.join(str(one.value) for one in kind)}") from None


def _is_array(kind: Any) -> bool:
    return kind is np.ndarray or get_origin(kind) is np.ndarray


def _array(value: Any, kind: Any) -> Any:
    wanted = np.dtype(get_args(get_args(kind)[1])[0])
    try:
        found = np.array(value)
    except ValueError:
        raise ValueError("rows of unlike length") from None
    if found.size and not np.can_cast(found.dtype, wanted, "safe"):
        raise ValueError(f"not only values of type {wanted.name}")
    return found.astype(wanted)


def _is_row(kind: Any) -> bool:
    """Say whether it is a tuple of any length: JSON has only arrays, and what is not one is told apart here."""
    return get_origin(kind) is tuple and len(get_args(kind)) == 2 and get_args(kind)[1] is Ellipsis


def _row(made: cattrs.Converter, value: Any, kind: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{_shown(value)} is not a list")
    each = get_args(kind)[0]
    return tuple(made.structure(value, list[each]))  # type: ignore[valid-type]


@dataclass(frozen=True, slots=True)
class _Rows:
    clusters: tuple[ClusterRow, ...]
    nodes: tuple[NodeRow, ...]


def _fleet(rows: _Rows) -> Fleet:
    known, seen = {cluster.name for cluster in rows.clusters}, set[tuple[str, str]]()
    for at, node in enumerate(rows.nodes):
        if node.cluster not in known:
            raise ValueError(f"nodes[{at}].cluster: there is no cluster {_shown(node.cluster)}")
        if (node.cluster, node.name) in seen:
            raise ValueError(f"nodes[{at}].name: cluster {node.cluster} has a node {_shown(node.name)} already")
        seen.add((node.cluster, node.name))
    return fleet_of_rows(rows.clusters, rows.nodes)


@dataclass(frozen=True, slots=True)
class _Queues:
    queues: tuple[Queue, ...]
    flavors: tuple[QuotaFlavor, ...]


def _tree(parts: _Queues) -> QueueTree:
    return QueueTree(parts.queues, parts.flavors)


# -- what is wrong ----------------------------------------------------------------------------------------------------


def _problems(error: Exception) -> list[str]:
    """Return what cattrs found, as `path: sentence`."""
    told = [one.rpartition(" @ ") for one in transform_error(error, "$", _told)]
    return [f"{path}: {what}" if path else what for what, _, path in told]


def _told(error: BaseException, kind: type | None) -> str:
    match error:
        case DujiangError():
            return error.sentence
        case KeyError():
            return "it is missing"
        case ForbiddenExtraKeysError():
            names = ", ".join(sorted(error.extra_fields)[:_MOST_SHOWN])
            return f"unknown here: {names}; perhaps a newer Dujiang wrote it"
        case ValueError():
            return str(error)
        case OverflowError():
            return "a number is too large"
    return "not of the right form"


def _shown(value: Any) -> str:
    text = orjson.dumps(value, default=str).decode()
    return text if len(text) <= 40 else text[:37] + "..."


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)

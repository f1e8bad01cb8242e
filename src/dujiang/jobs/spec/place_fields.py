"""The fields `nodes`, `placement`, `queue` and `deadline`, and what they say of one another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from dujiang.jobs.spec.model import Kind, Resources
from dujiang.jobs.spec.place import ANYWHERE, Burst, Deadline, Kept, NodeRange, Place, Placement
from dujiang.jobs.spec.words import NAME, duration
from dujiang.kit.spec.problems import Problems, quote
from dujiang.kit.spec.readers import (
    AsText,
    Choice,
    Field,
    Many,
    Mapped,
    OneOf,
    Quantity,
    Reader,
    Record,
    Schema,
    Table,
    Text,
    Truth,
    Whole,
)
from dujiang.kit.spec.yaml import Located
from dujiang.kit.units import format_duration

MAX_NODES: Final = 10_000
_KEY: Final = r"[A-Za-z0-9]([-_./A-Za-z0-9]{0,251}[A-Za-z0-9])?"

_COUNT = Whole(1, MAX_NODES, f"Write 1 to {MAX_NODES}, or such as 2-8 for a job that can do with fewer.")
_SPAN = Text(
    "a range of nodes", 11, r"[1-9][0-9]{0,4}-[1-9][0-9]{0,4}", "Write 4, or such as 2-8: the fewest, then the most."
)


def _of_span(text: str, value: Located, path: str, problems: Problems) -> NodeRange:
    least, _, most = text.partition("-")
    return _range(int(least), int(most), value, path, problems)


def _range(least: int, most: int, value: Located, path: str, problems: Problems) -> NodeRange:
    if most > MAX_NODES:
        raise problems.refuse(path, f"A job has at most {MAX_NODES} nodes, not {most}.", at=value.at)
    if least > most:
        message = f"The fewest nodes, {least}, are more than the most, {most}."
        raise problems.refuse(path, message, f"Write {most}-{least}.", at=value.at)
    return NodeRange(most, least if least < most else None)


def _short_nodes(value: Located) -> Reader[NodeRange] | None:
    match value.value:
        case Mapping():
            return None
        case str() as text if "-" in text:
            return Mapped(_SPAN, _of_span)
        case _:
            return Mapped(_COUNT, lambda count, *_: NodeRange(count))


NODES: Reader[NodeRange] = OneOf(
    Record(
        "a range of nodes",
        [
            Field("min", _COUNT, "The fewest that it can start and go on with.", required=True, examples=[2]),
            Field("max", _COUNT, "The most that it has a use for.", required=True, examples=[8]),
        ],
        lambda given, value, path, problems: _range(given["min"], given["max"], value, path, problems),
        {
            "least": "Write min.",
            "most": "Write max.",
            "minimum": "Write min.",
            "maximum": "Write max.",
            "count": "Write nodes: 4, or nodes: {min: 2, max: 8}.",
        },
    ),
    _short_nodes,
    [_COUNT.schema(), _SPAN.schema()],
)

_TOLERATION = Text(
    "a toleration",
    510,
    rf"(\*|{_KEY}(=[^\s,=\u0000]{{1,255}})?)",
    "Write the key of a taint, key=value, or * for all, as `dujiang nodes` shows them.",
)
_CLUSTER = Text("a cluster's name", 253, r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,251}[A-Za-z0-9])?", "Write it as it is shown.")
_LABEL_KEY = Text("a label's name", 253, _KEY, "A label has letters, digits, dots, dashes, slashes and underscores.")


def _placement(given: dict[str, Any], value: Located, path: str, problems: Problems) -> Placement:
    if "required" in given and "within" not in given:
        problems.add(
            f"{path}.required", "required says how strictly within is meant, and there is no within.",
            "Write within: rack too, or leave it out.", at=_at(value, "required"),
        )  # fmt: skip
    return Placement(**given)


PLACEMENT = Record(
    "a placement",
    [
        Field("cluster", _CLUSTER, "The only cluster that will do.", default_note="Default: any.", examples=["local"]),
        Field(
            "selector",
            Table(_LABEL_KEY, AsText(255), "labels", 64),
            "Labels that each of its nodes must have.",
            examples=[{"dujiang.io/site": "east"}],
        ),
        Field(
            "tolerations",
            Many(_TOLERATION, "tolerations", 64, str, unique_items=True),
            "Taints of nodes that the job puts up with: key (whatever the value), key=value, or * for all.",
            examples=[["team=vision"], ["*"]],
        ),
        Field("within", Choice(Place), "All nodes of the job in one node, switch, rack or site.", examples=["rack"]),
        Field(
            "required",
            Truth(),
            "Of within: false has the nodes farther from one another, wider places tried in turn, rather than wait.",
            default=True,
        ),
        Field("spread", Choice(Place), "No two nodes of the job in one node, switch, rack or site.", examples=["node"]),
        Field("apart", NAME, "Jobs of the project that say the same word share no node.", examples=["replica"]),
        Field(
            "isolation",
            Choice(Kept),
            "The least that will do for a share of a device. counted: it is only counted; memory: memory is held to "
            "the share; enforced: memory and compute are. A whole device is the job's own in any case.",
            default_note="Default: any.",
        ),
        Field(
            "burst",
            Choice(Burst),
            "Whether the job may go to a rented cluster that it does not name. never: it does not; allowed: it may, "
            "where the site's policy and budget let it.",
            default_note="Default: as the site has it.",
        ),
    ],
    _placement,
    {
        **dict.fromkeys(("node_selector", "nodeselector", "labels", "constraint", "features"), "Write selector."),
        **dict.fromkeys(("toleration", "taints", "tolerate"), "Write tolerations."),
        **dict.fromkeys(("topology", "locality", "level", "together"), "Write within."),
        **dict.fromkeys(("preferred", "strict", "mode"), "Write required: true or false."),
        **dict.fromkeys(("anti_affinity", "antiaffinity", "podantiaffinity"), "Write apart, or spread."),
        **dict.fromkeys(("affinity", "nodeaffinity"), "Write selector, or within."),
        **dict.fromkeys(("nodes", "node", "nodelist", "hosts"), "Write selector: {LABEL: VALUE} for labels of nodes."),
        **dict.fromkeys(("exclusive",), "Ask for whole devices and cores in resources."),
        **dict.fromkeys(("partition",), "Write selector or cluster."),
        **dict.fromkeys(("zone", "region", "site"), "Write selector: {dujiang.io/site: ...}."),
    },
)

QUEUE = Text(
    "a queue's name", 63, r"[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?", "Write the queue's name as `dujiang queues` shows it."
)

_YEARS: Final = (2000, 2200)
_MONTHS: Final = (
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_MOMENTS: Final = (
    f"^20[0-9][0-9]-{_MONTHS}T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?(Z|[-+](0[0-9]|1[0-4]):[0-5][0-9])$"
)
_ADVICE: Final = "Write a time with its zone, such as 2026-12-01T08:00:00+08:00, or how long after submission: 2d."


@dataclass(frozen=True)
class _DeadlineReader:
    """A moment, or a duration from the submission."""

    lasting: Quantity[float]

    def read(self, value: Located, path: str, problems: Problems) -> Deadline:
        """Return the deadline."""
        text = value.value
        if not isinstance(text, str) or not re.match(r"\d{4}-", text):
            if isinstance(text, str) and not re.match(r"\s*[-+.\d]", text):
                raise problems.refuse(path, f"{quote(text)} is neither a time nor how long.", _ADVICE, at=value.at)
            return Deadline(within_s=self.lasting.read(value, path, problems))
        try:
            at = datetime.fromisoformat(text)
        except ValueError as error:
            raise problems.refuse(path, f"{quote(text)} is not a time.", _ADVICE, at=value.at) from error
        if at.tzinfo is None:
            raise problems.refuse(path, f"{quote(text)} names no zone.", _ADVICE, at=value.at)
        if not _YEARS[0] <= at.year < _YEARS[1]:
            message = f"{quote(text)} is not between the years {_YEARS[0]} and {_YEARS[1]}."
            raise problems.refuse(path, message, _ADVICE, at=value.at)
        return Deadline(at=at)

    def schema(self) -> Schema:
        """Return the usual spellings."""
        return {"anyOf": [{"type": "string", "pattern": _MOMENTS}, *self.lasting.schema()["anyOf"]]}


DEADLINE: Reader[Deadline] = _DeadlineReader(duration(1, 31_622_400))


def check_deadline(given: dict[str, Any], value: Located, path: str, problems: Problems) -> None:
    """Note what is wrong with a deadline beside the other fields."""
    deadline, here, at = given.get("deadline"), f"{path}.deadline".lstrip("."), _at(value, "deadline")
    if deadline is None:
        return
    if given.get("kind") is Kind.SERVICE:
        problems.add(here, "A service runs until it is cancelled.", "Leave the deadline out.", at=at)
        return
    if "time_limit" not in given and "time_limit" not in _names(value):
        message = "A deadline needs a time_limit: only what is known to end in time can be promised."
        problems.add(here, message, "Write time_limit: 2h, or how long it runs at most.", at=at)
    limit_s = given.get("time_limit")
    if limit_s is not None and deadline.within_s is not None and deadline.within_s < limit_s:
        message = f"The deadline is {format_duration(deadline.within_s)} away, the time limit is "
        problems.add(here, f"{message}{format_duration(limit_s)}.", "Give more time, or a shorter time_limit.", at=at)


def check_placement(given: dict[str, Any], value: Located, path: str, problems: Problems) -> None:
    """Note what is wrong with a placement beside the other fields."""
    placement: Placement = given.get("placement", ANYWHERE)
    entry = value.value.get("placement") if isinstance(value.value, Mapping) else None
    inner = entry.value if entry is not None else value
    here = f"{path}.placement".lstrip(".")
    nodes: NodeRange = given.get("nodes", NodeRange(1))
    within, spread = placement.within, placement.spread
    if within and spread and placement.required and (nodes.least or nodes.most) > 1 and spread.width >= within.width:
        message = f"All nodes within one {within} cannot each be in another {spread}."
        instead = "Spread over something narrower, or write required: false."
        problems.add(f"{here}.spread", message, instead, at=_at(inner, "spread"))
    if placement.isolation is not None and "resources" in _names(value) and "resources" not in given:
        return  # what they are is not known
    resources: Resources = given.get("resources", Resources())
    if placement.isolation is not None and not any(one.gpu for one in (resources, *resources.alternatives)):
        message = "isolation is of a share of a device, and the job asks for no device."
        problems.add(f"{here}.isolation", message, "Leave it out, or ask for a gpu.", at=_at(inner, "isolation"))


def _names(value: Located) -> Mapping[str, Any]:
    return value.value if isinstance(value.value, Mapping) else {}


def _at(value: Located, name: str) -> tuple[int | None, int | None]:
    entry = value.value.get(name) if isinstance(value.value, Mapping) else None
    return entry.value.at if entry is not None else value.at

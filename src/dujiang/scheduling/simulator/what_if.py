"""One's own cluster, as it is and changed: from a saved snapshot or the ledger's export to work that can be replayed.

A change is nodes more or fewer, other quotas, other queues, other rules. What ran on a node that is taken away waits
from the beginning on.

How long work will run is known from its expectation, else from its time limit, else it is taken to be `Given.runs_h`:
`Base.guessed` counts those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Final

from dujiang.kit.errors import Invalid
from dujiang.kit.units import parse_bytes, parse_milli
from dujiang.scheduling.domain.fleet import Fleet, fleet_of_rows
from dujiang.scheduling.domain.queues import QueueTree
from dujiang.scheduling.domain.request import Ask, Constraints, Request
from dujiang.scheduling.domain.rows import rows_of_fleet
from dujiang.scheduling.domain.rules import Rules
from dujiang.scheduling.domain.snapshot import UNLIMITED, Holding, Quota, Snapshot
from dujiang.scheduling.domain.turns import Turns
from dujiang.scheduling.simulator.faults import Fault
from dujiang.scheduling.simulator.replay_work import Work

MOST_NODES: Final = 100_000
_AMOUNTS: Final = {"gpu": ("gpu_milli", parse_milli), "cpu": ("cpu_milli", parse_milli),
                   "memory": ("memory_bytes", parse_bytes)}  # fmt: skip
_KINDS: Final = ("int", "float", "bool", "float | None")
"""Types of the rules that a person can set here."""


class BadChange(Invalid):
    """A change that cannot be made to this cluster."""

    code, title = "bad_change", "The change is not valid"


@dataclass(frozen=True, slots=True)
class Base:
    """What is replayed: a cluster, the work on it, and since when."""

    snapshot: Snapshot
    works: tuple[Work, ...]
    origin: datetime
    guessed: int = 0
    """How many jobs have a run time that nothing tells."""

    def with_work(self, works: Sequence[Work], origin: datetime) -> Base:
        """Return other work on the same cluster, from another time on; windows stay where they are in time."""
        return Base(self.snapshot, tuple(works), origin)


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs in the second run; empty is nothing."""

    add: tuple[tuple[int, str], ...] = ()
    """How many nodes, each like which."""
    remove: tuple[str, ...] = ()
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    """By project; amounts that are None are not limited."""
    queues: QueueTree | None = None
    rules: Rules | None = None

    def __bool__(self) -> bool:
        return bool(self.add or self.remove or self.quotas or self.queues is not None or self.rules)


def faults_on(fleet: Fleet, of: Fleet, faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """Return failures of nodes of one fleet as those of the same nodes, by name, of another; what is gone stays whole.

    Raises:
        BadChange: one is of a node that there is not.
    """
    found: list[Fault] = []
    for fault in faults:
        if fault.node >= of.node_count:
            raise BadChange(
                f"The table of failures names node {fault.node}; the cluster has {of.node_count}, and they are counted "
                "from 0."
            )
        cluster = of.clusters[of.node_cluster[fault.node]].name
        node = fleet.node_at.get((cluster, of.node_names[fault.node]))
        if node is not None:
            found.append(replace(fault, node=node))
    return tuple(found)


def base_of_snapshot(snapshot: Snapshot, now: datetime, *, runs_s: float) -> Base:
    """Return what runs and waits in a snapshot, as work from its time on.

    Args:
        snapshot: of the moment.
        now: its time.
        runs_s: how long what nothing is known of is taken to run from now on.
    """
    works, guessed = [], 0
    for held in snapshot.holdings:
        left_s = _left_s(held, now)
        guessed += left_s is None
        since = max(held.saved_at or held.started_at, held.started_at)
        works.append(Work(
            _again(held, snapshot.fleet), 0.0, runs_s if left_s is None else left_s, held.may_stop, held,
            max((now - since).total_seconds(), 0.0),
        ))  # fmt: skip
    for request in snapshot.requests:
        known = [seconds for seconds in (request.expected_s, request.runs_at_most_s) if seconds is not None]
        guessed += not known
        works.append(Work(request, 0.0, min(known, default=runs_s)))
    return Base(replace(snapshot, holdings=(), requests=()), tuple(works), now, guessed)


def changed(base: Base, changes: Changes) -> Base:
    """Return the same work on the changed cluster.

    Raises:
        BadChange: there is no such node, or too many.
    """
    snapshot = base.snapshot
    if changes.add or changes.remove:
        snapshot = replace(snapshot, fleet=_with_nodes(snapshot.fleet, changes))
    if changes.quotas:
        snapshot = replace(snapshot, quotas={**snapshot.quotas, **changes.quotas})
    if changes.queues is not None:
        snapshot = replace(snapshot, queues=changes.queues)
    if changes.rules is not None:
        snapshot = replace(snapshot, rules=changes.rules)
    here = snapshot.fleet.node_at
    works = tuple(
        work if work.held is None or all((work.held.cluster, rank.node) in here for rank in work.held.ranks)
        else replace(work, held=None, runs_s=work.runs_s + work.unsaved_s, unsaved_s=0.0)
        for work in base.works
    )  # fmt: skip
    return replace(base, snapshot=snapshot, works=works)


def parse_nodes(text: str) -> tuple[int, str]:
    """Return how many nodes to add, like which: `20:like=gpu-01`.

    Raises:
        BadChange: it is not of that form.
    """
    count, _, like = text.partition(":like=")
    if not count.isdecimal() or not 1 <= int(count) <= MOST_NODES or not like:
        raise BadChange(f'"{text}" is not of the form 20:like=NODE, with 1 to {MOST_NODES} nodes.')
    return int(count), like


def parse_quota(text: str) -> tuple[str, dict[str, int | None]]:
    """Return the project and its limits: `PROJECT=gpu:16,cpu:64,memory:1TiB`; `none` lifts one.

    Raises:
        BadChange: it is not of that form.
        BadQuantity: an amount is none.
    """
    project, _, amounts = text.partition("=")
    limits: dict[str, int | None] = {}
    for part in amounts.split(","):
        name, _, amount = part.partition(":")
        if name not in _AMOUNTS or not amount or not project:
            raise BadChange(f'"{text}" is not of the form PROJECT=gpu:16,cpu:64,memory:1TiB; "none" lifts a limit.')
        column, read = _AMOUNTS[name]
        limits[column] = None if amount == "none" else read(amount)
    return project, limits


def quota_of(before: Quota | None, limits: Mapping[str, int | None]) -> Quota:
    """Return a quota with some of its limits replaced."""
    amounts: dict[str, Any] = dict(limits)
    return replace(before or UNLIMITED, **amounts)


def parse_rules(before: Rules, pairs: Sequence[str]) -> Rules:
    """Return rules with some values replaced: `reservations=4`, `preempts=false`, `most_lost_device_s=none`.

    `turns` is the device-seconds of the first level, or `none`.

    Raises:
        BadChange: there is no such rule, or it cannot have that value.
    """
    values: dict[str, Any] = {}
    known = {
        one.name: str(one.type) for one in fields(Rules) if str(one.type) in _KINDS and one.name != "lost_device_s"
    }
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name == "turns":
            first_device_s = _value(pair, text, "float | None")
            values[name] = Turns(first_device_s) if first_device_s else None
            continue
        if name not in known:
            raise BadChange(f'There is no rule "{name}"; there are {", ".join(sorted({*known, "turns"}))}.')
        values[name] = _value(pair, text, known[name])
    return replace(before, **values)


def _value(pair: str, text: str, kind: str) -> Any:
    if kind == "bool" and text in ("true", "false"):
        return text == "true"
    if text == "none" and "None" in kind:
        return None
    try:
        number = int(text) if kind == "int" else float(text)
    except ValueError:
        number = -1
    if kind == "bool" or not 0 <= number < 1e15:
        allowed = "true or false" if kind == "bool" else "a number from 0 on" + (" or none" if "None" in kind else "")
        raise BadChange(f'"{pair}": the value must be {allowed}.')
    return number


def _left_s(held: Holding, now: datetime) -> float | None:
    """Return how long it still runs by what is known; an expectation that has passed says nothing more."""
    ends = [held.ends_at] if held.ends_at is not None else []
    if held.expected_end is not None and held.expected_end > now:
        ends.append(held.expected_end)
    return max(0.0, (min(ends) - now).total_seconds()) if ends else None


def _again(held: Holding, fleet: Fleet) -> Request:
    """Return what a running job asks for when it waits again; where nothing tells, what it holds, of the same kind."""
    if held.request is not None:
        return held.request
    first = held.ranks[0]
    gpu = sum(share.gpu_milli for share in first.devices)
    vendor = model = ""
    node = fleet.node_at.get((held.cluster, first.node))
    if gpu and node is not None:
        device = fleet.device_at.get((node, first.devices[0].name))
        if device is not None:
            flavor = fleet.flavors[fleet.device_flavor[device]]
            vendor, model = flavor.vendor, flavor.model
    memory = first.devices[0].memory_bytes if gpu and gpu < 1000 else 0
    ask = Ask(gpu, memory, vendor, model, first.cpu_milli, first.memory_bytes, first.disk_bytes)
    return Request(
        held.job_id, held.project_id, ask, held.started_at, ranks=held.ranks_max or len(held.ranks),
        task_class=held.task_class, weight=held.weight, ranks_min=held.ranks_min, queue=held.queue,
        where=Constraints(cluster=held.cluster, tolerations=("*",), apart=held.apart),
    )  # fmt: skip


def _with_nodes(fleet: Fleet, changes: Changes) -> Fleet:
    clusters, rows = rows_of_fleet(fleet)
    names = {(row.cluster, row.name) for row in rows}
    gone = {_find(names, name) for name in changes.remove}
    kept = [row for row in rows if (row.cluster, row.name) not in gone]
    by_name = {(row.cluster, row.name): row for row in rows}
    if sum(count for count, _ in changes.add) + len(rows) > MOST_NODES:
        raise BadChange(f"More than {MOST_NODES} nodes in all; add fewer.")
    for count, like in changes.add:
        model = by_name[_find(names, like)]
        made = _names(model.cluster, model.name, names, count)
        kept += [
            replace(
                model, name=name, is_open=True, state="",
                devices=tuple(replace(device, is_open=True) for device in model.devices),
            ) for name in made
        ]  # fmt: skip
    if not kept:
        raise BadChange("No node would be left; remove fewer.")
    return fleet_of_rows(clusters, kept)


def _names(cluster: str, like: str, names: set[tuple[str, str]], count: int) -> Iterator[str]:
    number = 0
    for _ in range(count):
        number += 1
        while (cluster, f"{like}-more-{number}") in names:
            number += 1
        names.add((cluster, f"{like}-more-{number}"))
        yield f"{like}-more-{number}"


def _find(names: set[tuple[str, str]], text: str) -> tuple[str, str]:
    """Return the node of a name, or of `cluster/name`."""
    cluster, slash, node = text.rpartition("/")
    found = sorted(one for one in names if one[1] == (node if slash else text) and (not slash or one[0] == cluster))
    if len(found) != 1:
        several = f"in {', '.join(one[0] for one in found[:3])}; write CLUSTER/{text}" if found else "here"
        raise BadChange(f'There is no node "{text}" {several}.' if not found else f'Node "{text}" is {several}.')
    return found[0]

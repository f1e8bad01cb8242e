"""Snapshots as files: the same plan and the same explanations, and a sentence for whatever is broken."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings

from dujiang.engines.contract import Isolation
from dujiang.scheduling.domain import (
    Ask,
    ClusterRow,
    Constraints,
    DeviceRow,
    Fleet,
    Level,
    NodeRow,
    Quota,
    Snapshot,
    TaskClass,
    Window,
    explain,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)
from dujiang.scheduling.domain.queues import Limits, Queue, QueueTree, QuotaFlavor, QuotaLine
from dujiang.scheduling.domain.rows import rows_of_fleet
from dujiang.scheduling.domain.rules import Rules
from dujiang.scheduling.domain.saved import BadSnapshot, dump, load
from dujiang.scheduling.domain.shares import FairShare
from dujiang.scheduling.domain.turns import Turns
from tests.scheduling.building import GIB, NOW, a_fleet, a_job, holding
from tests.scheduling.test_properties import fleets, worlds

HOUR = timedelta(hours=1)


def same_fleet(one: Fleet, other: Fleet) -> None:
    """Every field is the same, but for where devices stood in what the fleet was made of."""
    for field in fields(Fleet):
        if field.name != "device_source":
            same(getattr(one, field.name), getattr(other, field.name), field.name)


def same(one: Any, other: Any, where: str) -> None:
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, where
        assert np.array_equal(one, other), where
    elif isinstance(one, tuple) and any(hasattr(each, "__dataclass_fields__") for each in one):
        assert len(one) == len(other), where
        for a, b in zip(one, other, strict=True):
            for field in fields(a):
                same(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}")
    else:
        assert one == other, where
        assert type(one) is type(other) or not isinstance(one, str), where  # an enum equals its text


def same_snapshot(one: Snapshot, other: Snapshot) -> None:
    for field in fields(Snapshot):
        if field.name == "fleet":
            same_fleet(one.fleet, other.fleet)
        else:
            same(getattr(one, field.name), getattr(other, field.name), field.name)


def a_full_snapshot() -> Snapshot:
    """A snapshot in which nearly every field says something."""
    place = {Level.SWITCH: "s1", Level.RACK: "r1", Level.SITE: "here"}
    devices = (DeviceRow("g0", 0, "nvidia", "A100", 80 * GIB, isolation=Isolation.ENFORCED),
               DeviceRow("g1", 1, "amd", "MI300X", 192 * GIB, is_open=False))  # fmt: skip
    nodes = [
        NodeRow("d", "n0", 8000, 64 * GIB, GIB, devices, labels={"rack": "a"}, taints=("b=1", "a"), domains=place),
        NodeRow("c", "n1", 8000, 64 * GIB, GIB, devices, is_open=False, state="CORDONED", domains=place),
        NodeRow("d", "n2", 4000, 32 * GIB, domains={Level.SWITCH: "s1", Level.RACK: "r2"}),
        NodeRow("c", "n3", 4000, 32 * GIB),
    ]
    fleet = fleet_of_rows([ClusterRow("d", False, 1.25, True, 0.5, "pyxis"), ClusterRow("c")], nodes)
    where = Constraints(
        "d", (("rack", "a"),), ("*",), Level.RACK, False, Level.NODE, "x", Isolation.COUNTED_ONLY, True, ("d", "c")
    )
    job = a_job(
        "a", gpu=0.5, cpu=1, where=where, weight=0.9, task_class=TaskClass.CORE, avoid=(("c", "n1"),), ranks=3,
        ranks_min=2, runs_at_most_s=60.5, expected_s=1 / 3, deadline=NOW + HOUR, not_before=NOW - HOUR, queue="q",
        alternatives=(Ask(1000, 0, "amd"), Ask(250, 5 * GIB)), had_device_s=7.5,
    )  # fmt: skip
    held = replace(
        holding("h", "n0", devices=(0,), milli=500, cpu=1, ends_in_s=5, cluster="d"), expected_end=NOW + HOUR,
        queue="q", task_class=TaskClass.LOW, weight=0.2, apart="x", is_stopping=True, may_stop=True, saved_at=NOW,
        ranks_min=1, ranks_max=4, had_device_s=1 / 3,
    )  # fmt: skip
    snapshot = snapshot_of_rows(
        fleet, holdings=[held], requests=[job, a_job("b")], quotas={"p": Quota(1000, None, GIB)}, version=7
    )
    line = QuotaLine("all", Limits(4000, None, 8000, GIB), lending_limit=Limits(1000), guarantee=Limits(cpu_milli=5))
    tree = QueueTree(
        [Queue("top"), Queue("q", "top", (line,), weight=2.5, projects=("p",), guests=("g",))],
        [QuotaFlavor("all", vendor="nvidia", cluster="d")],
    )
    return replace(
        snapshot, windows=(Window("w", "d", ("n2",), NOW, NOW + HOUR, ("p",)),), queues=tree,
        rules=Rules(reservations=3, most_lost_device_s=5.0, grows=False, turns=Turns(60.0, 2.0, 1e4)),
        shares={"p": FairShare("p", 1.5, 3.0, 1 / 3, 0.25)},
    )  # fmt: skip


def test_everything_is_kept() -> None:
    snapshot = a_full_snapshot()
    read, now = load(dump(snapshot, NOW))
    assert now == NOW
    same_snapshot(read, snapshot)
    assert dump(read, now) == dump(snapshot, NOW)
    assert load(gzip.compress(dump(snapshot, NOW)))[0].requests == snapshot.requests


def test_every_field_of_the_rows_is_taken_from_the_fleet() -> None:
    """A field that is added to a row has to be added to `rows_of_fleet` as well, and to this test."""
    clusters, nodes = rows_of_fleet(a_full_snapshot().fleet)
    for row, said in ((ClusterRow, clusters), (NodeRow, nodes), (DeviceRow, [d for n in nodes for d in n.devices])):
        for field in fields(row):
            values = [getattr(each, field.name) for each in said]
            assert any(value != values[0] for value in values), f"{row.__name__}.{field.name} is always {values[0]}"


@given(fleets())
@settings(max_examples=50)
def test_rows_of_a_fleet_make_the_same_fleet(fleet: Fleet) -> None:
    same_fleet(fleet_of_rows(*rows_of_fleet(fleet)), fleet)


@given(worlds())
@settings(max_examples=100)
def test_a_saved_snapshot_is_planned_and_explained_as_before(snapshot: Snapshot) -> None:
    read, now = load(dump(snapshot, NOW))
    same_snapshot(read, snapshot)
    assert plan(read, now) == plan(snapshot, NOW)
    for request in snapshot.requests:
        assert explain(read, now, request.job_id) == explain(snapshot, NOW, request.job_id)


Break = Callable[[dict[str, Any]], Any]
BROKEN: list[tuple[Break, str]] = [
    (lambda s: s["requests"][1].update(ranks="x"), 'requests[1].ranks: "x" is not a whole number'),
    (lambda s: s["requests"][1].update(ranks=True), "requests[1].ranks: true is not a whole number"),
    (lambda s: s["requests"][1].update(ranks=0), "requests[1]: A job has 1 to 100000 ranks, not 0."),
    (lambda s: s["requests"][1].update(weight=3), "requests[1]: Class normal has weights from 0.4 to 0.6, not 3."),
    (lambda s: s["requests"][1].update(colour=3), "requests[1]: unknown here: colour; perhaps a newer Dujiang"),
    (lambda s: s["requests"][0].pop("job_id"), "requests[0].job_id: it is missing"),
    (lambda s: s["requests"][0]["ask"].update(gpu_milli=1500), "requests[0].ask: 1.5 devices cannot be given"),
    (lambda s: s["requests"][0].update(task_class="top"), '"top" is none of core, normal, low'),
    (lambda s: s["requests"].append(s["requests"][0]), "requests[2].job_id: a is there already"),
    (lambda s: s["requests"][0].update(submitted_at="now"), 'requests[0].submitted_at: "now" is not a time'),
    (lambda s: s["requests"][0].update(submitted_at="2026-01-01T00:00:00"), "has no time zone"),
    (lambda s: s["holdings"].append(3), "holdings[1]: not of the right form"),
    (lambda s: s.update(holdings={}), "holdings: {} is not a list"),
    (lambda s: s["fleet"]["nodes"][0].update(cluster="z"), 'nodes[0].cluster: there is no cluster "z"'),
    (lambda s: s["fleet"]["nodes"].append(s["fleet"]["nodes"][0]), 'nodes[4].name: cluster c has a node "n1" already'),
    (lambda s: s["fleet"]["nodes"][0].update(cpu_milli=2**63), "fleet: a number is too large"),
    (lambda s: s["fleet"].update(racks=[]), "fleet: unknown here: racks"),
    (lambda s: s["queues"]["queues"][0].update(parent="q"), "queues: "),
    (lambda s: s["queues"]["queues"][1]["lines"][0]["nominal"].update(gpus=1), "nominal: unknown here: gpus"),
    (lambda s: s.update(node_free=[[1], [2, 3]]), "node_free: rows of unlike length"),
    (lambda s: s.update(device_milli=[0.5] * 4), "device_milli: not only values of type int64"),
    (lambda s: s.update(device_milli=[1]), "snapshot.device_milli: it is 1 numbers, and the fleet needs 4."),
]  # fmt: skip


@pytest.mark.parametrize(("broken", "told"), BROKEN, ids=[told for _, told in BROKEN])
def test_what_is_broken_is_said_and_where(broken: Break, told: str) -> None:
    document = orjson.loads(dump(a_full_snapshot(), NOW))
    broken(document["snapshot"])
    with pytest.raises(BadSnapshot) as caught:
        load(orjson.dumps(document))
    assert told in caught.value.sentence


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not JSON"),
        (b'{"format"', "line 1, column"),
        (b"[]", "not a snapshot of Dujiang"),
        (b'{"format": "dujiang-snapshot", "version": 99}', "of version 99; this Dujiang reads version 1"),
        (b'{"format": "dujiang-snapshot", "version": 1}', "$.at: it is missing"),
        (gzip.compress(b"{}" * 100, mtime=0)[:-4], "compressed and broken"),
        (b"\x1f\x8bno", "compressed and broken"),
        (b"\xff\xfe\x00", "not JSON"),
    ],
)
def test_what_is_no_snapshot_is_said(data: bytes, told: str) -> None:
    with pytest.raises(BadSnapshot) as caught:
        load(data)
    assert told in caught.value.sentence


def test_a_snapshot_of_another_version_of_the_fields_takes_defaults_for_what_it_lacks() -> None:
    document = orjson.loads(dump(snapshot_of_rows(a_fleet(), requests=[a_job("a", gpu=1)]), NOW))
    del document["snapshot"]["windows"], document["snapshot"]["requests"][0]["queue"]
    assert load(orjson.dumps(document))[0].requests == (a_job("a", gpu=1),)

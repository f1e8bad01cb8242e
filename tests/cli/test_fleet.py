"""What operators say of nodes: labels, taints, reservations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dujiang.kit.clock import SystemClock
from tests.cli.conftest import Run
from tests.cli.standin import Answer, StandIn

NODE: dict[str, Any] = {"name": "n1", "labels": {"a": "1"}, "taints": ["team=vision"], "state": "READY"}
RESERVATION: dict[str, Any] = {
    "name": "fans", "id": "rsv_1", "state": "PLANNED", "cluster": "here", "nodes": ["n1", "n2"], "all_nodes": False,
    "begins_at": "2030-01-01T00:00:00+00:00", "ends_at": "2030-01-01T04:00:00+00:00", "maintenance": True,
    "projects": [], "reason": "", "made_by": "user:usr_1", "warnings": ['It overlaps "other".'],
}  # fmt: skip


def test_labels_and_taints_are_set_and_taken_away(server: StandIn, run: Run) -> None:
    server.on("POST /v1/nodes/n1/labels", NODE)
    server.on("POST /v1/nodes/n1/taints", NODE)
    code, out, _ = run("nodes", "label", "n1", "a=1", "dujiang.io/rack=r=7", "old-")
    assert (code, out) == (0, "n1 has the labels a=1.\n")
    assert server.asked[-1].body == {"set": {"a": "1", "dujiang.io/rack": "r=7"}, "remove": ["old"]}
    code, out, _ = run("nodes", "taint", "n1", "team=vision", "broken", "gone-")
    assert (code, out) == (0, "n1 has the taints team=vision.\n")
    assert server.asked[-1].body == {"set": ["team=vision", "broken"], "remove": ["gone"]}
    code, _, err = run("nodes", "label", "n1", "a")
    assert (code, "write a=VALUE, or a- to take it away" in err) == (2, True)


def test_a_node_that_its_cluster_keeps_closed_is_told_as_that(server: StandIn, run: Run) -> None:
    server.on("POST /v1/nodes/n1/uncordon", {**NODE, "state": "CORDONED"})
    code, out, err = run("nodes", "uncordon", "n1")
    assert (code, out) == (0, "n1 is open here; its cluster still shows it CORDONED.\n")
    assert "somebody closed it there" in err
    server.on("POST /v1/nodes/n1/uncordon", NODE)
    assert run("nodes", "uncordon", "n1") == (0, "n1 is open again; its state is READY.\n", "")


def test_a_reservation_is_made_with_times_as_people_write_them(server: StandIn, run: Run) -> None:
    server.on("POST /v1/reservations", RESERVATION)
    code, out, err = run(
        "reservations", "create", "fans", "--nodes", "n1,n2", "--from", "+2h", "--for", "4h", "-p", "vision"
    )
    assert code == 0
    assert "nobody (maintenance)" in out
    assert 'Note: It overlaps "other".' in err
    body = server.asked[-1].body
    assert (body["nodes"], body["all_nodes"], body["projects"]) == (["n1", "n2"], False, ["vision"])
    begins, ends = (datetime.fromisoformat(body[name]) for name in ("begins_at", "ends_at"))
    assert ends - begins == timedelta(hours=4)
    assert abs(begins - SystemClock().now() - timedelta(hours=2)) < timedelta(minutes=5)
    run("reservations", "create", "fans", "--all", "--cluster", "here", "--to", "2030-01-01T04:00:00Z")
    body = server.asked[-1].body
    assert (body["begins_at"], body["ends_at"], body["all_nodes"]) == (None, _local("2030-01-01T04:00:00+00:00"), True)


def _local(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().isoformat()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--all",), "Give either --to or --for"),
        (("--all", "--for", "4h", "--to", "+4h"), "Give either --to or --for"),
        (("--for", "4h"), "Give either --nodes or --all"),
        (("--all", "--nodes", "n1", "--for", "4h"), "Give either --nodes or --all"),
        (("--all", "--for", "soon"), "--for: "),
        (("--all", "--to", "tomorrow"), '--to: "tomorrow" is not a time'),
        (("--all", "--from", "+lots", "--to", "+4h"), "--from: "),
        (("--all", "--to", "+99999999d"), "--to: "),
    ],
)
def test_times_and_nodes_that_mean_nothing_are_told(
    server: StandIn, run: Run, args: tuple[str, ...], says: str
) -> None:
    code, out, err = run("reservations", "create", "fans", *args)
    assert (code, out) == (2, "")
    assert says in err


def test_a_reservation_is_shown_changed_and_taken_back(server: StandIn, run: Run) -> None:
    server.on("GET /v1/reservations", {"items": [RESERVATION], "next_cursor": None})
    server.on("PATCH /v1/reservations/fans", RESERVATION)
    server.on("DELETE /v1/reservations/fans", lambda _: Answer(None, 204))
    code, out, _ = run("reservations")
    assert code == 0
    assert out.splitlines()[1].split("  ")[0] == "fans"
    assert run("reservations", "change", "fans", "--to", "+1d")[0] == 0
    assert list(server.asked[-1].body) == ["begins_at", "ends_at", "reason"]
    assert run("reservations", "change", "fans")[0] == 2
    assert run("reservations", "delete", "fans")[:2] == (0, "fans is taken back.\n")


def test_a_price_from_the_beginning_of_time_says_so(server: StandIn, run: Run) -> None:
    price = {"sku_id": "gpu", "resource": "gpu", "unit_price": "1", "currency": "CNY", "unit": "gpu-hour"}
    old, new = price | {"effective_from": "1970-01-01T00:00:00Z"}, price | {"effective_from": "2026-02-01T00:00:00Z"}
    server.on("GET /v1/prices", {"items": [old, new], "next_cursor": None})
    code, out, _ = run("prices")
    assert code == 0
    assert "1970" not in out
    assert "always" in out.splitlines()[1]
    assert "2026-02-01" in out.splitlines()[2]


def test_nodes_of_a_cluster_that_does_not_answer_are_marked(server: StandIn, run: Run) -> None:
    node = {"name": "n1", "cluster": "far", "state": "READY", "cluster_state": "unreachable"}
    server.on(
        "GET /v1/nodes", {"items": [node, node | {"name": "n2", "cluster_state": "degraded"}], "next_cursor": None}
    )
    code, out, _ = run("nodes")
    assert code == 0
    assert "READY (cluster unreachable)" in out.splitlines()[1]
    assert "(cluster" not in out.splitlines()[2]


def test_clusters_of_which_nothing_is_known_are_named(server: StandIn, run: Run) -> None:
    silent = {"state": "unreachable", "state_since": None}
    pool = {"clusters": 3, "node_states": {"READY": 1}, "devices": [], "hosts": []}
    rows = [silent | {"cluster": "far", "nodes": 0, "devices": 0}, silent | {"cluster": "b", "nodes": 2, "devices": 8}]
    server.on("GET /v1/pool", pool | {"silent": rows})
    code, out, _ = run("pool")
    assert code == 0
    assert "Nothing is known of far: no answer from there; `dujiang clusters` says why." in out
    assert "Of these 2 nodes with 8 devices are on b, unreachable: nothing new starts there." in out
    server.on("GET /v1/nodes", {"items": [], "next_cursor": None})
    assert "`dujiang clusters` says" in run("nodes", "--cluster", "far")[1]


def test_a_node_names_the_jobs_on_it_and_jobs_are_listed_by_node(server: StandIn, run: Run) -> None:
    job = {"id": "job_1", "name": "train", "project": "vision", "state": "RUNNING"}
    server.on("GET /v1/nodes/n1", {**NODE, "id": "nod_1", "cluster": "here"})
    server.on("GET /v1/jobs", {"items": [job], "next_cursor": None})
    code, out, _ = run("nodes", "show", "n1")
    assert code == 0
    assert out.splitlines()[-1].split() == ["job_1", "train", "vision", "RUNNING"]
    assert server.asked[-1].query["node"] == ["nod_1"]
    (told,) = json.loads(run("nodes", "show", "n1", "--json")[1])["jobs"]
    assert told == {"id": "job_1", "name": "train", "project": "vision"}
    assert "train" in run("ps", "--node", "n1", "--cluster", "here")[1]
    assert (server.asked[-1].query["node"], server.asked[-1].query["cluster"]) == (["n1"], ["here"])
    server.on("GET /v1/jobs", {"items": [], "next_cursor": None})
    assert run("ps", "--node", "n1")[1] == "Nothing of yours runs on n1.\n"
    assert run("nodes", "show", "n1")[0] == 0


def test_who_stops_reading_ends_the_listing_quietly(server: StandIn, home: Path) -> None:
    """As `dujiang nodes | head` does: more is written than any buffer holds, to nobody."""
    nodes = [{**NODE, "name": f"node-{number:05}"} for number in range(1000)]
    server.on("GET /v1/nodes", {"items": nodes, "next_cursor": None})
    reads, writes = os.pipe()
    os.close(reads)
    words = [sys.executable, "-c", "import sys; from dujiang.cli import main; sys.exit(main(['nodes']))"]
    with os.fdopen(writes, "wb") as out:
        done = subprocess.run(words, stdout=out, stderr=subprocess.PIPE, env=dict(os.environ), check=False)
    assert (done.returncode, done.stderr) == (141, b"")

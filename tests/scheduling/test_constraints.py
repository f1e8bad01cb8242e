"""What a job may demand of its place, case by case; that it always holds is in test_properties."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dujiang.engines.contract import Isolation
from dujiang.scheduling.domain import (
    Ask,
    ClusterRow,
    Fleet,
    Level,
    NodeRow,
    Request,
    Snapshot,
    Window,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)  # fmt: skip
from dujiang.scheduling.domain.rules import Rules
from tests.scheduling.building import NOW, a_fleet, a_job, holding, some_nodes, where, why

HOUR = timedelta(hours=1)


def racks(count: int = 2, nodes: int = 2) -> Fleet:
    """Racks `r0 r1 ...` of nodes `r0n0 r0n1 ...` with four devices each; each rack has a switch of its own."""
    rows = [
        replace(row, name=f"r{rack}{row.name}", domains={Level.RACK: f"r{rack}", Level.SWITCH: f"s{rack}"})
        for rack in range(count) for row in some_nodes(nodes, 4)
    ]  # fmt: skip
    return fleet_of_rows([ClusterRow("c")], rows)


def nodes_of(snapshot: Snapshot, job_id: str = "a") -> list[str]:
    return [node for node, _ in where(plan(snapshot, NOW))[job_id]]


class TestTopology:
    def test_ranks_stay_in_one_rack_though_others_have_fuller_nodes(self) -> None:
        held = [holding("x", "r0n0", devices=(0, 1, 2)), holding("y", "r1n0", devices=(0,))]
        placed = nodes_of(snapshot_of_rows(racks(), holdings=held, requests=[a_job("a", gpu=1, ranks=6)]))
        assert {name[:2] for name in placed} == {"r1"}

    def test_required_it_waits_rather_than_cross(self) -> None:
        held = [holding(f"x{rack}", f"r{rack}n0", devices=(0, 1)) for rack in range(2)]
        job = a_job("a", gpu=1, ranks=7, within=Level.RACK)
        done = plan(snapshot_of_rows(racks(), holdings=held, requests=[job]), NOW)
        assert why(done) == {"a": "Resources"}
        assert (done.waits[0].shortage.needed, done.waits[0].shortage.available) == (7, 6)
        loose = replace(job, where=replace(job.where, is_within_required=False))
        assert len(nodes_of(snapshot_of_rows(racks(), holdings=held, requests=[loose]))) == 7

    def test_more_than_any_rack_has_can_never_be_had(self) -> None:
        done = plan(snapshot_of_rows(racks(), requests=[a_job("a", gpu=1, ranks=9, within=Level.RACK)]), NOW)
        assert why(done) == {"a": "TooLarge"}

    @pytest.mark.parametrize(("level", "most"), [(Level.NODE, 4), (Level.RACK, 2)])
    def test_ranks_that_keep_apart(self, level: Level, most: int) -> None:
        fits = a_job("a", gpu=1, ranks=most, spread=level)
        placed = nodes_of(snapshot_of_rows(racks(), requests=[fits]))
        assert len({name if level is Level.NODE else name[:2] for name in placed}) == most
        done = plan(snapshot_of_rows(racks(), requests=[replace(fits, ranks=most + 1)]), NOW)
        assert why(done) == {"a": "TooLarge"}

    def test_jobs_of_a_word_share_no_node(self) -> None:
        jobs = [a_job(name, gpu=1, apart="replica", project=project) for name, project in ("ap", "bp", "cq")]
        placed = where(plan(snapshot_of_rows(a_fleet(2), requests=jobs), NOW))
        assert placed["a"][0][0] != placed["b"][0][0]
        assert len(placed) == 3  # another project's word is another word
        more = a_job("d", gpu=1, apart="replica", after_s=9)
        done = plan(snapshot_of_rows(a_fleet(2), requests=[*jobs, more]), NOW)
        assert why(done) == {"d": "Priority"}


class TestWhoMayUseWhat:
    def tainted(self, *taints: str) -> Fleet:
        return fleet_of_rows([ClusterRow("c")], [replace(row, taints=taints) for row in some_nodes(1, 4)])

    @pytest.mark.parametrize(
        ("taints", "tolerations", "starts"),
        [
            (("gpu",), (), False),
            (("gpu",), ("gpu",), True),
            (("gpu", "team=x"), ("gpu",), False),
            (("gpu", "team=x"), ("gpu", "team"), True),
            (("team=x",), ("team=x",), True),
            (("team=x",), ("team=y",), False),
            (("gpu", "team=x"), ("*",), True),
        ],
    )
    def test_taints(self, taints: tuple[str, ...], tolerations: tuple[str, ...], starts: bool) -> None:
        job = a_job("a", gpu=1, tolerations=tolerations)
        done = plan(snapshot_of_rows(self.tainted(*taints), requests=[job]), NOW)
        assert [start.job_id for start in done.starts] == ["a"] * starts
        assert why(done) == ({} if starts else {"a": "UntoleratedTaint"})

    def test_a_share_is_as_isolated_as_asked(self) -> None:
        nodes = [
            replace(row, devices=tuple(replace(device, isolation=kind) for device in row.devices))
            for row, kind in zip(some_nodes(2, 1), (Isolation.COUNTED_ONLY, Isolation.MEMORY_ONLY), strict=True)
        ]
        fleet = fleet_of_rows([ClusterRow("c")], nodes)
        job = a_job("a", gpu=0.5, isolation=Isolation.MEMORY_ONLY)
        assert nodes_of(snapshot_of_rows(fleet, requests=[job])) == ["n1"]
        enforced = replace(job, where=replace(job.where, isolation=Isolation.ENFORCED))
        assert why(plan(snapshot_of_rows(fleet, requests=[enforced]), NOW)) == {"a": "NoMatchingDevice"}
        whole = replace(enforced, ask=Ask(gpu_milli=1000))
        assert len(plan(snapshot_of_rows(fleet, requests=[whole]), NOW).starts) == 1  # nobody shares a whole one

    def test_alternatives_in_their_order(self) -> None:
        nodes = some_nodes(1, 1, model="H100") + some_nodes(1, 2, model="A100", prefix="m")
        fleet = fleet_of_rows([ClusterRow("c")], nodes)
        jobs = [
            replace(a_job(name, gpu=1, model="H100", after_s=n), alternatives=(Ask(1000, model="A100"),))
            for n, name in enumerate("abc")
        ]
        placed = where(plan(snapshot_of_rows(fleet, requests=jobs), NOW))
        assert [placed[name][0][0] for name in "abc"] == ["n0", "m0", "m0"]

    def test_clusters_by_data_then_price_and_rented_ones_by_name_alone(self) -> None:
        rows: list[NodeRow] = []
        for name in ("cheap", "dear", "cloud"):
            rows += some_nodes(1, 1, cluster=name)
        clusters = [ClusterRow("cheap", price=1), ClusterRow("dear", price=2), ClusterRow("cloud", is_cloud=True)]
        fleet = fleet_of_rows(clusters, rows)

        def cluster_of(job: Request) -> str:
            started = plan(snapshot_of_rows(fleet, requests=[job]), NOW).starts
            return started[0].cluster if started else ""

        assert cluster_of(a_job("a", gpu=1)) == "cheap"
        assert cluster_of(a_job("a", gpu=1, near=("dear",))) == "dear"
        assert cluster_of(a_job("a", gpu=1, cluster="cloud")) == "cloud"
        three = [a_job(name, gpu=1, after_s=n) for n, name in enumerate("abc")]
        assert len(plan(snapshot_of_rows(fleet, requests=three), NOW).starts) == 2


class TestWindows:
    def world(self, job: Request, *, begins: timedelta = HOUR, projects: tuple[str, ...] = ()) -> Snapshot:
        window = Window("upgrade", "c", ("n0",), NOW + begins, NOW + 3 * HOUR, projects)
        return replace(snapshot_of_rows(a_fleet(1), requests=[job]), windows=(window,))

    def test_what_cannot_end_before_waits_for_its_end(self) -> None:
        done = plan(self.world(a_job("a", gpu=1, runs_at_most_s=3601)), NOW)
        assert why(done) == {"a": "Window"}
        wait = done.waits[0]
        assert (wait.window, wait.earliest) == ("upgrade", NOW + 3 * HOUR)
        assert wait.change is not None
        assert wait.change.sentence.startswith("It starts now when it takes at most 3600 s")

    def test_what_ends_before_starts(self) -> None:
        assert plan(self.world(a_job("a", gpu=1, runs_at_most_s=3600)), NOW).starts

    def test_whom_it_is_for_starts(self) -> None:
        assert plan(self.world(a_job("a", gpu=1), begins=-HOUR, projects=("p",)), NOW).starts
        assert not plan(self.world(a_job("a", gpu=1), begins=-HOUR, projects=("q",)), NOW).starts

    def test_other_nodes_are_free_to_use(self) -> None:
        snapshot = self.world(a_job("a", gpu=1))
        wider = replace(snapshot_of_rows(a_fleet(2), requests=snapshot.requests), windows=snapshot.windows)
        assert nodes_of(wider) == ["n1"]


class TestManyAtOnce:
    def test_an_elastic_job_takes_what_there_is(self) -> None:
        held = [holding("x", "n0", devices=(0,))]
        job = a_job("a", gpu=1, ranks=8, ranks_min=2)
        assert len(nodes_of(snapshot_of_rows(a_fleet(1), holdings=held, requests=[job]))) == 3
        full = [holding("x", "n0", devices=(0, 1, 2))]
        assert why(plan(snapshot_of_rows(a_fleet(1), holdings=full, requests=[job]), NOW)) == {"a": "Resources"}

    def test_a_deadline_without_slack_goes_first_in_its_class(self) -> None:
        old = a_job("old", gpu=4, runs_at_most_s=7200)
        due = a_job("due", gpu=4, after_s=60, runs_at_most_s=1800, deadline=NOW + HOUR)
        assert list(where(plan(snapshot_of_rows(a_fleet(1), requests=[old, due]), NOW))) == ["due"]
        later = replace(due, deadline=NOW + 5 * HOUR)
        assert list(where(plan(snapshot_of_rows(a_fleet(1), requests=[old, later]), NOW))) == ["old"]

    def test_more_prepared_starts_hold_more_back(self) -> None:
        """With one, a job may take what the second in line waits for; with two it may not."""
        held = [
            holding("x", "n0", devices=(0, 1, 2, 3), ends_in_s=100),
            holding("y", "n1", devices=(0, 1), ends_in_s=500),
        ]
        jobs = [a_job("first", gpu=4), a_job("second", gpu=4, after_s=1), a_job("small", gpu=1, after_s=2)]
        snapshot = snapshot_of_rows(a_fleet(2), holdings=held, requests=jobs)
        assert list(where(plan(snapshot, NOW))) == ["small"]
        done = plan(replace(snapshot, rules=Rules(reservations=2)), NOW)
        assert why(done)["small"] == "Reserved"
        assert [wait.earliest for wait in done.waits[:2]] == [NOW + timedelta(seconds=s) for s in (100, 500)]

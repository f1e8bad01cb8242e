"""What is started where, in which order, and what is said to the rest."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dujiang.kit.errors import Invalid
from dujiang.scheduling.domain import (
    Ask,
    BadAsk,
    ClusterRow,
    ImpossibleRequest,
    Quota,
    Remedy,
    TaskClass,
    WeightOutsideBand,
    check_possible,
    explain,
    fleet_of_rows,
    largest_possible,
    plan,
    snapshot_of_rows,
    weight_of,
)
from tests.scheduling.building import GIB, NOW, a_fleet, a_job, after, holding, some_nodes, where, why


class TestWeights:
    @pytest.mark.parametrize(
        ("task_class", "weight", "result"),
        [("core", None, 0.9), ("normal", None, 0.5), ("low", None, 0.2), ("core", 0.8, 0.8), ("core", 1.0, 1.0),
         ("normal", 0.4, 0.4), ("low", 0.3, 0.3)],
    )  # fmt: skip
    def test_a_weight_in_its_band(self, task_class: str, weight: float | None, result: float) -> None:
        assert weight_of(TaskClass(task_class), weight) == result

    @pytest.mark.parametrize(
        ("task_class", "weight", "sentence"),
        [("core", 0.5, "Class core has weights from 0.8 to 1, not 0.5. 0.5 is a weight of class normal."),
         ("low", 0.35, "Class low has weights from 0.1 to 0.3, not 0.35."),
         ("normal", float("nan"), "from 0.4 to 0.6")],
    )  # fmt: skip
    def test_a_weight_outside_its_band(self, task_class: str, weight: float, sentence: str) -> None:
        with pytest.raises(WeightOutsideBand, match=sentence):
            weight_of(TaskClass(task_class), weight)

    def test_a_request_checks_its_weight(self) -> None:
        with pytest.raises(WeightOutsideBand):
            a_job(weight=0.9)


class TestAsk:
    @pytest.mark.parametrize("milli", [0, 1, 125, 999, 1000, 8000])
    def test_shares_and_whole_devices(self, milli: int) -> None:
        assert Ask(gpu_milli=milli).gpu_milli == milli

    @pytest.mark.parametrize(
        "fields", [{"gpu_milli": 1500}, {"gpu_milli": -1}, {"vendor": "amd"}, {"cpu_milli": 2**61}]
    )
    def test_what_means_nothing(self, fields: dict[str, int]) -> None:
        with pytest.raises(BadAsk) as refused:
            Ask(**fields)  # type: ignore[arg-type]
        assert isinstance(refused.value, Invalid)

    def test_the_way_out_is_named(self) -> None:
        with pytest.raises(BadAsk, match=r"1\.5 devices cannot be given.*whole ones \(1 or 2\)"):
            Ask(gpu_milli=1500)


class TestOrder:
    def test_weight_then_age_then_id(self) -> None:
        jobs = [
            a_job("late", gpu=1, after_s=9), a_job("b", gpu=1), a_job("a", gpu=1),
            a_job("low", gpu=1, after_s=-99, task_class=TaskClass.LOW),
            a_job("core", gpu=1, after_s=99, task_class=TaskClass.CORE), a_job("heavy", gpu=1, after_s=50, weight=0.6),
        ]  # fmt: skip
        done = plan(snapshot_of_rows(a_fleet(), requests=jobs), NOW)
        assert [start.job_id for start in done.starts] == ["core", "heavy", "a", "b", "late", "low"]

    def test_core_is_served_first_when_it_is_tight(self) -> None:
        jobs = [
            a_job("low", gpu=4, task_class=TaskClass.LOW),
            a_job("core", gpu=4, after_s=5, task_class=TaskClass.CORE),
        ]
        done = plan(snapshot_of_rows(a_fleet(1), requests=jobs), NOW)
        assert list(where(done)) == ["core"]
        assert (why(done), done.waits[0].blocking_job) == ({"low": "Priority"}, "core")


class TestBestFit:
    def test_shares_fill_the_fullest_device_that_holds_them(self) -> None:
        held = [holding("x", "n1", devices=(2,), milli=500), holding("y", "n0", devices=(1,), milli=250)]
        jobs = [a_job("half", gpu=0.5), a_job("three", gpu=0.75, after_s=1), a_job("new", gpu=0.5, after_s=2)]
        done = plan(snapshot_of_rows(a_fleet(), holdings=held, requests=jobs), NOW)
        assert where(done) == {"half": [("n1", [2])], "three": [("n0", [1])], "new": [("n0", [0])]}

    def test_a_share_needs_its_memory_too(self) -> None:
        held = [holding("x", "n0", devices=(0,), milli=100, gib=70)]
        jobs = [a_job("a", gpu=0.25), a_job("b", gpu=0.8, gpu_gib=10, after_s=1)]
        done = plan(snapshot_of_rows(a_fleet(1, 2), holdings=held, requests=jobs), NOW)
        assert where(done) == {"a": [("n0", [1])], "b": [("n0", [0])]}
        share = {start.job_id: start.ranks[0].devices[0] for start in done.starts}
        assert (share["a"].gpu_milli, share["a"].memory_bytes) == (250, 20 * GIB)
        assert share["b"].memory_bytes == 10 * GIB

    def test_whole_devices_leave_the_least_over(self) -> None:
        held = [holding("x", "n1", devices=(0, 1))]
        done = plan(snapshot_of_rows(a_fleet(), holdings=held, requests=[a_job("two", gpu=2)]), NOW)
        assert where(done) == {"two": [("n1", [2, 3])]}

    def test_a_used_device_is_not_whole(self) -> None:
        held = [holding("x", "n0", devices=(0,), milli=1)]
        done = plan(snapshot_of_rows(a_fleet(1, 1), holdings=held, requests=[a_job("one", gpu=1)]), NOW)
        assert why(done) == {"one": "Resources"}

    def test_work_without_devices_goes_where_there_are_none(self) -> None:
        held = [holding("x", "n1", devices=(0, 1, 2, 3))]
        jobs = [a_job("big", cpu=32), a_job("next", cpu=32, after_s=1), a_job("third", cpu=32, after_s=2)]
        done = plan(snapshot_of_rows(a_fleet(cpu_nodes=1), holdings=held, requests=jobs), NOW)
        assert where(done) == {"big": [("x0", [])], "next": [("n1", [])], "third": [("n0", [])]}

    def test_any_device_is_the_smallest_that_will_do(self) -> None:
        nodes = some_nodes(1, 1, gpu_gib=80) + some_nodes(1, 1, gpu_gib=40, model="L40S", prefix="l")
        fleet = fleet_of_rows([ClusterRow("c")], nodes)
        jobs = [a_job("any", gpu=1), a_job("big", gpu=1, gpu_gib=60, after_s=1)]
        assert where(plan(snapshot_of_rows(fleet, requests=jobs), NOW)) == {"any": [("l0", [0])], "big": [("n0", [0])]}

    @pytest.mark.parametrize("model", ["a100", "A100-SXM", "nvidia a100", "NVIDIA A100-SXM4-80GB", ""])
    def test_models_by_how_they_begin(self, model: str) -> None:
        fleet = a_fleet(1, model="NVIDIA A100-SXM4-80GB")
        assert where(plan(snapshot_of_rows(fleet, requests=[a_job(gpu=1, model=model, vendor="NVIDIA")]), NOW))

    def test_one_job_gets_one_kind(self) -> None:
        nodes = some_nodes(1, 1) + some_nodes(1, 1, model="MI300X", vendor="amd", prefix="m")
        fleet = fleet_of_rows([ClusterRow("c")], nodes)
        assert why(plan(snapshot_of_rows(fleet, requests=[a_job("a", gpu=1, ranks=2)]), NOW)) == {"a": "TooLarge"}

    def test_labels_choose_nodes(self) -> None:
        done = plan(snapshot_of_rows(a_fleet(3), requests=[a_job("a", gpu=1, selector=(("name", "n2"),))]), NOW)
        assert where(done) == {"a": [("n2", [0])]}

    def test_a_retry_avoids_the_node_it_failed_on(self) -> None:
        avoid = (("c", "n0"),)
        jobs = [a_job("a", gpu=1, avoid=avoid)]
        assert where(plan(snapshot_of_rows(a_fleet(2), requests=jobs), NOW)) == {"a": [("n1", [0])]}
        busy = [holding("x", "n1", devices=(0, 1, 2, 3))]
        assert why(plan(snapshot_of_rows(a_fleet(2), holdings=busy, requests=jobs), NOW)) == {"a": "Resources"}
        assert where(plan(snapshot_of_rows(a_fleet(1), requests=jobs), NOW)) == {"a": [("n0", [0])]}
        assert where(plan(snapshot_of_rows(a_fleet(2, closed=("n1",)), requests=jobs), NOW)) == {"a": [("n0", [0])]}


class TestGangs:
    def test_one_node_when_one_is_enough(self) -> None:
        done = plan(snapshot_of_rows(a_fleet(), requests=[a_job("a", gpu=1, ranks=4)]), NOW)
        assert where(done) == {"a": [("n0", [0]), ("n0", [1]), ("n0", [2]), ("n0", [3])]}

    def test_as_few_nodes_as_possible(self) -> None:
        held = [holding("x", "n0", devices=(0, 1, 2))]
        done = plan(snapshot_of_rows(a_fleet(3), holdings=held, requests=[a_job("a", gpu=1, ranks=5)]), NOW)
        assert [node for node, _ in where(done)["a"]] == ["n1", "n1", "n1", "n1", "n0"]

    def test_a_node_each_where_the_engine_says_so(self) -> None:
        fleet = a_fleet(3, stacks=False)
        done = plan(snapshot_of_rows(fleet, requests=[a_job("a", gpu=1, ranks=3)]), NOW)
        assert sorted(node for node, _ in where(done)["a"]) == ["n0", "n1", "n2"]
        assert why(plan(snapshot_of_rows(fleet, requests=[a_job("a", gpu=1, ranks=4)]), NOW)) == {"a": "TooLarge"}

    def test_all_or_nothing(self) -> None:
        held = [holding("x", "n0", devices=(0,), milli=1)]
        done = plan(snapshot_of_rows(a_fleet(), holdings=held, requests=[a_job("a", gpu=2, ranks=4)]), NOW)
        assert done.starts == ()
        lack = done.waits[0].shortage
        assert (lack.resource, lack.needed, lack.available) == ("ranks", 4, 3)

    def test_shares_of_a_gang_may_share_a_device(self) -> None:
        done = plan(snapshot_of_rows(a_fleet(1, 2), requests=[a_job("a", gpu=0.4, ranks=4)]), NOW)
        assert [devices for _, devices in where(done)["a"]] == [[0], [0], [1], [1]]

    def test_never_over_two_clusters(self) -> None:
        nodes = some_nodes(1, 4) + some_nodes(1, 4, cluster="d")
        fleet = fleet_of_rows([ClusterRow("c"), ClusterRow("d")], nodes)
        assert why(plan(snapshot_of_rows(fleet, requests=[a_job("a", gpu=1, ranks=5)]), NOW)) == {"a": "TooLarge"}
        done = plan(
            snapshot_of_rows(fleet, requests=[a_job("a", gpu=4), a_job("b", gpu=4), a_job("e", cluster="d", cpu=1)]),
            NOW,
        )
        assert [start.cluster for start in done.starts] == ["c", "d", "d"]


class TestQuota:
    def test_over_quota_waits_and_holds_nobody_else_up(self) -> None:
        jobs = [a_job("a", gpu=2), a_job("b", gpu=1, after_s=1), a_job("c", gpu=1, after_s=2, project="q")]
        done = plan(snapshot_of_rows(a_fleet(), requests=jobs, quotas={"p": Quota(gpu_milli=2000)}), NOW)
        assert list(where(done)) == ["a", "c"]
        wait = done.waits[0]
        assert (wait.reason, wait.blocking_project, wait.shortage.available) == ("QuotaExceeded", "p", 0)
        assert wait.sentence == "Its project has 0 gpu of its quota left, this job needs 1."
        assert wait.change is not None
        assert (wait.change.remedy, wait.change.amounts) == (Remedy.RAISE_QUOTA, (("gpu_milli", 3000),))

    def test_what_is_held_counts(self) -> None:
        held = [holding("x", "n0", cpu=6, memory_gib=4)]
        for quota, waits in [
            (Quota(cpu_milli=8000), {}), (Quota(cpu_milli=7999), {"a": "QuotaExceeded"}),
            (Quota(memory_bytes=5 * GIB), {"a": "QuotaExceeded"}), (Quota(gpu_milli=0), {}),
        ]:  # fmt: skip
            jobs = [a_job("a", cpu=2, memory_gib=2)]
            done = plan(snapshot_of_rows(a_fleet(), holdings=held, requests=jobs, quotas={"p": quota}), NOW)
            assert why(done) == waits, quota

    def test_smaller_jobs_do_not_eat_the_quota_that_a_larger_one_waits_for(self) -> None:
        held = [holding("x", "n0", devices=(0, 1), ends_in_s=600)]
        jobs = [
            a_job("large", gpu=3), a_job("small", gpu=1, after_s=1),
            a_job("short", gpu=1, after_s=2, runs_at_most_s=500), a_job("cpu", cpu=1, after_s=3),
        ]  # fmt: skip
        done = plan(snapshot_of_rows(a_fleet(), holdings=held, requests=jobs, quotas={"p": Quota(gpu_milli=4000)}), NOW)
        assert why(done) == {"large": "QuotaExceeded", "small": "QuotaReserved"}
        assert done.waits[1].blocking_job == "large"

    def test_what_can_never_fit_its_quota_holds_nobody_up(self) -> None:
        jobs = [a_job("never", gpu=8, ranks=1), a_job("small", gpu=1, after_s=1)]
        done = plan(snapshot_of_rows(a_fleet(1, 8), requests=jobs, quotas={"p": Quota(gpu_milli=4000)}), NOW)
        assert why(done) == {"never": "QuotaExceeded"}
        assert done.waits[0].sentence == (
            "It needs 8 gpu in all, the quota of its project is 4: it starts only once that is raised."
        )


class TestReservation:
    def test_smaller_jobs_do_not_starve_a_larger_one(self) -> None:
        held = [holding("x", "n0", devices=(0,))]
        jobs = [a_job("large", gpu=4), a_job("small", gpu=1, after_s=1)]
        done = plan(snapshot_of_rows(a_fleet(1), holdings=held, requests=jobs), NOW)
        assert why(done) == {"large": "Resources", "small": "Reserved"}
        assert (done.waits[0].blocking_job, done.waits[1].blocking_job) == ("x", "large")
        assert done.waits[0].earliest is None

    def test_what_the_large_one_does_not_need_is_free_for_all(self) -> None:
        held = [holding("x", "n0", devices=(0,)), holding("y", "n1", devices=(0,), started_s=-50)]
        jobs = [a_job("large", gpu=4), a_job("small", gpu=3, after_s=1), a_job("more", gpu=1, after_s=2)]
        done = plan(snapshot_of_rows(a_fleet(), holdings=held, requests=jobs), NOW)
        assert where(done) == {"small": [("n1", [1, 2, 3])]}  # x has run longest: its node is the target
        assert why(done)["more"] == "Reserved"

    def test_a_gap_is_filled_by_what_is_over_in_time(self) -> None:
        held = [holding("x", "n0", devices=(0,), ends_in_s=3600)]
        jobs = [
            a_job("large", gpu=4), a_job("fits", gpu=2, after_s=1, runs_at_most_s=3600),
            a_job("long", gpu=1, after_s=2, runs_at_most_s=3601),
        ]  # fmt: skip
        done = plan(snapshot_of_rows(a_fleet(1), holdings=held, requests=jobs), NOW)
        assert list(where(done)) == ["fits"]
        large, long = done.waits
        assert (large.earliest, long.reason) == (NOW + timedelta(seconds=3600), "Reserved")
        assert long.change is not None
        assert (long.change.remedy, long.change.seconds) == (Remedy.LIMIT_TIME, 3600.0)

    def test_the_earliest_of_many_ends_counts(self) -> None:
        held = [holding(f"x{i}", f"n{i}", devices=(0, 1, 2, 3), ends_in_s=100.0 * (5 - i)) for i in range(5)]
        done = plan(snapshot_of_rows(a_fleet(5), holdings=held, requests=[a_job("a", gpu=4, ranks=2)]), NOW)
        assert (done.waits[0].earliest, done.waits[0].blocking_job) == (NOW + timedelta(seconds=200), "x3")

    def test_what_can_not_run_here_reserves_nothing(self) -> None:
        held = [holding("x", "n0", devices=(0,))]
        jobs = [
            a_job("closed", gpu=8), a_job("later", gpu=4, not_before=NOW + timedelta(seconds=5)),
            a_job("small", gpu=1, after_s=1),
        ]  # fmt: skip
        done = plan(snapshot_of_rows(a_fleet(1), holdings=held, requests=jobs), NOW)
        assert why(done) == {"closed": "TooLarge", "later": "Backoff"}
        assert list(where(done)) == ["small"]


class TestReasons:
    def test_resources_names_what_and_where(self) -> None:
        held = [holding("x", "n0", devices=(0, 1, 2)), holding("y", "n1", devices=(0, 1, 2, 3))]
        wait = plan(snapshot_of_rows(a_fleet(), holdings=held, requests=[a_job("a", gpu=2)]), NOW).waits[0]
        assert (wait.reason, wait.position) == ("Resources", 1)
        assert wait.sentence == "Gpu: needs 2 on one node, largest free is 1 on n0; waits for x to end."
        assert wait.change is not None
        assert wait.change.sentence == "It starts now with 1 gpu."
        assert replace(wait.change, resource="ranks", to=1).sentence == "It starts now with 1 node."

    def test_free_but_on_different_nodes(self) -> None:
        held = [holding("x", "n0", cpu=32), holding("y", "n1", devices=(0, 1, 2, 3))]
        wait = plan(snapshot_of_rows(a_fleet(), holdings=held, requests=[a_job("a", gpu=1, cpu=4)]), NOW).waits[0]
        assert wait.shortage.resource == "together"

    def test_closed_nodes(self) -> None:
        wait = plan(snapshot_of_rows(a_fleet(2, closed=("n1",)), requests=[a_job("a", gpu=4, ranks=2)]), NOW).waits[0]
        assert wait.reason == "NodeUnavailable"
        assert wait.sentence == "It fits only on nodes or devices that are closed now, such as n1."

    def test_no_such_device(self) -> None:
        wait = plan(snapshot_of_rows(a_fleet(), requests=[a_job("a", gpu=1, vendor="amd")]), NOW).waits[0]
        assert wait.reason == "NoMatchingDevice"

    def test_backoff_says_until_when(self) -> None:
        until = NOW + timedelta(seconds=30)
        job = a_job("a", gpu=1, not_before=until)
        wait = plan(snapshot_of_rows(a_fleet(), requests=[job]), NOW).waits[0]
        assert (wait.reason, wait.earliest) == ("Backoff", until)
        assert plan(snapshot_of_rows(a_fleet(), requests=[job]), until).waits == ()

    def test_one_job_explained(self) -> None:
        jobs = [a_job(f"j{i}", gpu=4, cpu=float(i), after_s=i) for i in range(9)]
        snapshot = snapshot_of_rows(a_fleet(1), requests=jobs)
        wait = explain(snapshot, NOW, "j8")
        assert wait is not None
        assert (wait.position, wait.reason) == (8, "Priority")
        assert explain(snapshot, NOW, "j0") is None

    def test_an_empty_pool(self) -> None:
        empty = fleet_of_rows([], [])
        assert why(plan(snapshot_of_rows(empty, requests=[a_job("a", cpu=1), a_job("b", gpu=1)]), NOW)) == {
            "a": "TooLarge", "b": "NoMatchingDevice"}  # fmt: skip

    def test_a_settled_world_starts_nothing(self) -> None:
        snapshot = snapshot_of_rows(a_fleet(), requests=[a_job("a", gpu=4), a_job("b", gpu=4), a_job("c", gpu=4)])
        done = plan(snapshot, NOW)
        left = [job for job in snapshot.requests if job.job_id == "c"]
        again = plan(snapshot_of_rows(snapshot.fleet, holdings=after(snapshot, done), requests=left), NOW)
        assert (again.starts, why(again)) == ((), {"c": "Resources"})


class TestPossible:
    @pytest.mark.parametrize(
        ("job", "sentence"),
        [
            (
                a_job(gpu=5),
                r"5 gpu on one node is asked for, the largest possible is 4\. Devices here: nvidia A100 80GiB",
            ),
            (a_job(gpu=1, gpu_gib=96), "96GiB of memory is asked for, the largest of that kind has 80GiB"),
            (a_job(gpu=1, vendor="amd"), r"no device of the kind asked for \(amd\). Devices here: nvidia A100 80GiB"),
            (a_job(gpu=0.5, model="H200"), r"\(H200\)"),
            (a_job(cpu=33), "33 cpu on one node is asked for, the largest possible is 32"),
            (a_job(memory_gib=257), "257GiB memory on one node is asked for, the largest possible is 256GiB"),
            (a_job(gpu=2, ranks=5), "5 ranks of 2 gpu are asked for at the same time.*largest possible is 4"),
            (a_job(cpu=1, cluster="C"), 'There is no cluster "C". Did you mean "c"'),
            (a_job(cpu=1, cluster="hpc"), r'There is no cluster "hpc"\. Clusters here: c\.'),
            (a_job(cpu=1, selector=(("rack", "r9"),)), "No node has the labels rack=r9"),
        ],
    )
    def test_the_impossible_is_refused_with_what_is_possible(self, job: object, sentence: str) -> None:
        with pytest.raises(ImpossibleRequest, match=sentence):
            check_possible(a_fleet(), job)  # type: ignore[arg-type]

    def test_closed_nodes_may_open_again(self) -> None:
        check_possible(a_fleet(2, closed=("n0", "n1")), a_job(gpu=4, ranks=2))

    def test_more_than_the_quota_is_impossible_too(self) -> None:
        check_possible(a_fleet(), a_job(gpu=4), Quota(gpu_milli=4000))
        with pytest.raises(ImpossibleRequest, match="needs 8 gpu in all, the quota of its project is 4"):
            check_possible(a_fleet(), a_job(gpu=4, ranks=2), Quota(gpu_milli=4000))

    def test_the_largest(self) -> None:
        largest = largest_possible(a_fleet(2, 4, cpu_nodes=1), a_job(gpu=2))
        assert (largest.gpu_milli, largest.cpu_milli, largest.ranks, largest.models) == (
            4000, 32_000, 4, ("nvidia A100 80GiB",))  # fmt: skip

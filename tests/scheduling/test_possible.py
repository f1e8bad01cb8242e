"""What is refused at submission, and the sentence that says what would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.engines.contract import Isolation
from dujiang.scheduling.domain import (
    Ask,
    ClusterRow,
    Fleet,
    ImpossibleRequest,
    Level,
    NodeRow,
    Quota,
    Request,
    check_possible,
    fleet_of_rows,
    largest_possible,
    plan,
    snapshot_of_rows,
)
from dujiang.scheduling.domain.renting import BurstPolicy
from dujiang.scheduling.domain.rules import Rules
from tests.scheduling.building import GIB, NOW, a_fleet, a_job, some_nodes
from tests.scheduling.test_properties import OTHERS, fleets, places

A100 = "Devices here: nvidia A100 80GiB."


def racks(count: int, *, nodes: int = 2, gpus: int = 4) -> Fleet:
    rows = [
        replace(row, name=f"r{rack}-{row.name}", domains={Level.RACK: f"r{rack}"})
        for rack in range(count)
        for row in some_nodes(nodes, gpus)
    ]
    return fleet_of_rows([ClusterRow("c")], rows)


def with_nodes(*more: NodeRow, clusters: Sequence[ClusterRow] = (ClusterRow("c"),)) -> Fleet:
    return fleet_of_rows(clusters, more)


def tainted(*taints: str, nodes: int = 2) -> list[NodeRow]:
    return [replace(row, name=f"t{row.name}", taints=taints) for row in some_nodes(nodes, 4)]


def kept(isolation: Isolation) -> list[NodeRow]:
    return [
        replace(row, devices=tuple(replace(device, isolation=isolation) for device in row.devices))
        for row in some_nodes(2, 4)
    ]


def refused(fleet: Fleet, job: Request, **more: Any) -> str:
    with pytest.raises(ImpossibleRequest) as error:
        check_possible(fleet, job, **more)
    return error.value.sentence


class TestElastic:
    def test_its_fewest_ranks_will_do(self) -> None:
        job = a_job(gpu=4, ranks=8, ranks_min=2)
        check_possible(a_fleet(2), job)
        check_possible(a_fleet(2), job, Quota(gpu_milli=8000))
        assert "3 ranks of 4 gpu" in refused(a_fleet(2), replace(job, ranks_min=3))

    def test_quota(self) -> None:
        job = a_job(gpu=4, ranks=8, ranks_min=2)
        assert "needs 8 gpu in all" in refused(a_fleet(2), job, quota=Quota(gpu_milli=7000))


class TestAlternatives:
    def test_any_will_do(self) -> None:
        job = a_job(gpu=8, alternatives=(Ask(16_000), Ask(4000)))
        check_possible(a_fleet(), job)
        check_possible(a_fleet(), job, Quota(gpu_milli=4000))

    def test_none_does(self) -> None:
        told = refused(a_fleet(), a_job(gpu=8, alternatives=(Ask(16_000),)))
        assert told == (
            f"8 gpu on one node is asked for, the largest possible is 4. {A100} None of the 1 alternatives fits either."
        )

    def test_what_fits_the_pool_is_over_the_quota(self) -> None:
        job = a_job(gpu=4, alternatives=(Ask(1000, model="H100"),))
        assert "kind asked for (H100)" in refused(a_fleet(), job, quota=Quota(gpu_milli=2000))


class TestImages:
    def test_it_goes_where_images_are_run(self) -> None:
        rows = [*some_nodes(1, 4), *some_nodes(1, 2, cluster="k")]
        fleet = fleet_of_rows([ClusterRow("c"), ClusterRow("k", images="kubernetes")], rows)
        check_possible(fleet, a_job(gpu=2, image=True))
        check_possible(fleet, a_job(cpu=1, image=True))
        assert largest_possible(fleet, a_job(gpu=1, image=True)).gpu_milli == 2000
        told = refused(fleet, a_job(gpu=4, image=True))
        assert told == (
            "It would fit on a cluster that runs no container images; those that do cannot hold it: k (kubernetes). "
            f"4 gpu on one node is asked for, the largest possible is 2. {A100}"
        )
        told = refused(fleet, a_job(gpu=1, image=True, cluster="c"))
        assert told == "Cluster c runs no container images; these do: k (kubernetes)."

    def test_where_none_is_run_it_is_said_what_would(self) -> None:
        check_possible(a_fleet(), a_job(gpu=1))
        for job in (a_job(gpu=1, image=True), a_job(cpu=1, image=True), a_job(gpu=1, image=True, cluster="c")):
            assert refused(a_fleet(), job).startswith(
                "No cluster runs container images. On the machine of a local cluster, install podman, Docker or"
            )

    def test_what_waits_when_the_last_one_is_gone_says_so(self) -> None:
        rows = [*some_nodes(1, 4), *some_nodes(1, 4, cluster="k")]
        able = fleet_of_rows([ClusterRow("c"), ClusterRow("k", images="podman")], rows)
        for job in (a_job(gpu=1, image=True), a_job(cpu=1, image=True)):
            done = plan(snapshot_of_rows(able, requests=[job]), NOW)
            assert [start.cluster for start in done.starts] == ["k"]
            gone = plan(snapshot_of_rows(fleet_of_rows([ClusterRow("c"), ClusterRow("k")], rows), requests=[job]), NOW)
            assert [wait.reason for wait in gone.waits] == ["NoImages"]
            assert "no cluster with what it asks for runs those now" in gone.waits[0].sentence


class TestSentences:
    @pytest.mark.parametrize(
        ("fleet", "job", "sentence"),
        [
            (with_nodes(*tainted("team=x")), a_job(gpu=1),
             ("Every node that could hold it has the taint team=x; add it to placement.tolerations if it may run "
             "there.")),
            (with_nodes(*tainted("team=x", "gpu-only")), a_job(gpu=1),
             ("Every node that could hold it has the taints gpu-only, team=x; add them to placement.tolerations if it "
             "may run there.")),
            (with_nodes(*tainted("team=x", "gpu-only")), a_job(gpu=1, tolerations=("gpu-only",)),
             ("Every node that could hold it has the taint team=x; add it to placement.tolerations if it may run "
             "there.")),
            (with_nodes(*some_nodes(1, 4), *tainted("team=x", nodes=1)), a_job(gpu=4, ranks=2),
             ("Too few nodes could hold it but for the taint team=x; add it to placement.tolerations if it may run "
             "there.")),
            (with_nodes(*kept(Isolation.COUNTED_ONLY)), a_job(gpu=0.5, isolation=Isolation.MEMORY_ONLY),
             ("No device of that kind keeps shares memory-only; the best is counted-only. Write a lower "
             "placement.isolation, or ask for whole devices.")),
            (with_nodes(*kept(Isolation.MEMORY_ONLY)), a_job(gpu=0.5, isolation=Isolation.ENFORCED),
             ("No device of that kind keeps shares enforced; the best is memory-only. Write a lower "
             "placement.isolation, or ask for whole devices.")),
            (racks(2), a_job(gpu=1, ranks=16, within=Level.RACK),
             ("No rack holds 16 ranks of 1 gpu; the largest holds 8. Ask for fewer nodes, or write "
             "placement.required: false.")),
            (racks(2), a_job(gpu=1, ranks=6, ranks_min=5, within=Level.NODE),
             ("No node holds 5 ranks of 1 gpu; the largest holds 4. Ask for fewer nodes, or write "
             "placement.required: false.")),
            (racks(2), a_job(gpu=1, ranks=3, spread=Level.RACK),
             ("3 ranks are to be in as many different places (rack); only 2 such places hold one of 1 gpu. Ask for "
             "fewer nodes, or leave placement.spread out.")),
            (a_fleet(), a_job(gpu=4, ranks=2, selector=(("name", "n0"),)),
             ("The nodes with the labels name=n0 could not hold it: 2 ranks of 4 gpu are asked for at the same time, "
             "in one cluster; the largest possible is 1.")),
            (a_fleet(), a_job(gpu=1, selector=(("name", "n9"),)), "No node has the labels name=n9."),
            (with_nodes(*some_nodes(1, 4), *tainted("team=x", nodes=1)), a_job(
                gpu=1, ranks=2, spread=Level.NODE, selector=(("name", "n0"),), tolerations=(), cluster="c",
                isolation=Isolation.ENFORCED,
            ), ("Too few nodes could hold it but for the taint team=x; add it to placement.tolerations if it may run "
               "there.")),
            (racks(1), a_job(gpu=1, ranks=9, within=Level.RACK), ("9 ranks of 1 gpu are asked for at the same time, in "
             "one cluster; the largest possible is 8.")),
        ],
    )  # fmt: skip
    def test_what_is_wrong(self, fleet: Fleet, job: Request, sentence: str) -> None:
        assert refused(fleet, job) == sentence

    def test_two_demands_that_contradict_each_other(self) -> None:
        fleet = with_nodes(*some_nodes(1, 4), *(replace(row, labels={"fast": "yes"}) for row in tainted("team=x")))
        job = a_job(gpu=4, ranks=2, within=Level.NODE, selector=(("name", "n0"),))
        assert refused(fleet, job) == (
            "No part of the pool meets all that placement demands at the same time; leave some of it out."
        )


def test_a_cluster_that_has_never_answered() -> None:
    fleet = with_nodes(*some_nodes(1, 4), clusters=[ClusterRow("c"), ClusterRow("silent")])
    assert refused(fleet, a_job(cpu=1, cluster="silent")) == (
        "Cluster silent has shown no node yet, so nothing is known of what it could hold; `dujiang clusters` says "
        "whether it answers, and why not. Submit again when it has."
    )


class TestClouds:
    FLEET = with_nodes(
        *some_nodes(1, 4), *some_nodes(2, 8, cluster="rented", model="H100", prefix="h"),
        clusters=[ClusterRow("c"), ClusterRow("rented", price=2.0, is_cloud=True)],
    )  # fmt: skip

    def test_those_who_name_it(self) -> None:
        check_possible(self.FLEET, a_job(gpu=8, cluster="rented"))

    def test_those_who_may_burst(self) -> None:
        job, policy = a_job(gpu=8, runs_at_most_s=3600), BurstPolicy(budget_per_day=Decimal(32))
        check_possible(self.FLEET, job, burst=policy)
        assert largest_possible(self.FLEET, job, burst=policy).ranks == 2
        assert "largest possible is 2" in refused(self.FLEET, replace(job, ranks=3), burst=policy)
        check_possible(self.FLEET, replace(job, ranks=2), burst=policy)
        assert "Only cluster rented" in refused(self.FLEET, replace(job, ranks=2, runs_at_most_s=3601), burst=policy)

    def test_nobody_else(self) -> None:
        assert refused(self.FLEET, a_job(gpu=8)) == (
            "Only cluster rented could hold it, which is rented by use: write placement.cluster: rented. It goes there "
            "by itself only as the policy and its budget allow, and needs a time_limit for that."
        )
        assert largest_possible(self.FLEET, a_job(gpu=8)).gpu_milli == 4000


@st.composite
def requests(draw: st.DrawFn) -> Request:
    gpu = draw(st.sampled_from([0, 0.25, 0.5, 1, 2, 3]))
    ranks = draw(st.sampled_from([1, 1, 2, 3, 6]))
    return a_job(
        gpu=gpu, cpu=draw(st.sampled_from([0, 1, 9, 17])), memory_gib=draw(st.sampled_from([0, 8, 65])), ranks=ranks,
        gpu_gib=draw(st.sampled_from([0, 0, 60, 100])) if gpu >= 1 else 0, ranks_min=draw(st.sampled_from([None, 1])),
        model=draw(st.sampled_from(["", "", "", "A100", "H100"])) if gpu else "",
        alternatives=draw(st.sampled_from([(), (), OTHERS])), where=draw(places),
        runs_at_most_s=draw(st.sampled_from([None, 600.0])),
    )  # fmt: skip


quotas_or_none = st.sampled_from([None, None, Quota(gpu_milli=2000), Quota(cpu_milli=6000, memory_bytes=9 * GIB)])
policies = st.sampled_from([None, BurstPolicy(budget_per_day=Decimal(1), left=Decimal(1))])


@given(fleets(), requests(), quotas_or_none, policies)
@settings(max_examples=400, deadline=None)
def test_what_passes_is_what_starts_on_the_empty_open_pool(
    fleet: Fleet, job: Request, quota: Quota | None, policy: BurstPolicy | None
) -> None:
    opened = replace(fleet, node_open=fleet.node_open | True, device_open=fleet.device_open | True)
    quotas = {job.project_id: quota} if quota else {}
    world = replace(snapshot_of_rows(opened, requests=[job], quotas=quotas), rules=Rules(burst=policy))
    if plan(world, NOW, telling=False).starts:
        check_possible(fleet, job, quota, burst=policy)
    else:
        assert refused(fleet, job, quota=quota, burst=policy).endswith(".")

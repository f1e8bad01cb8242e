"""More than a queue could ever have: refused when it is submitted, and told for good once a queue was lowered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from dujiang.scheduling.domain import (
    FOR_GOOD,
    Ask,
    ClusterRow,
    Fleet,
    ImpossibleRequest,
    Request,
    Wait,
    check_possible,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)
from dujiang.scheduling.domain.queue_document import parse_queues
from dujiang.scheduling.domain.queues import NO_QUEUES, Limits, Queue, QueueTree, QuotaFlavor, QuotaLine
from tests.scheduling.building import NOW, a_fleet, a_job, holding, some_nodes, where
from tests.scheduling.test_queues_planned import crowded, gpus

CENTRE = parse_queues((Path(__file__).parents[2] / "examples" / "queues" / "centre.yaml").read_text())
H100 = a_fleet(16, 8, model="H100")


def a_vision(**more: Any) -> Request:
    return a_job("x", project="vision", **more)


def refusal(fleet: Fleet, job: Request, tree: QueueTree = CENTRE) -> ImpossibleRequest:
    with pytest.raises(ImpossibleRequest) as refused:
        check_possible(fleet, job, queues=tree)
    return refused.value


def told(fleet: Fleet, job: Request, tree: QueueTree) -> Wait:
    snapshot = replace(snapshot_of_rows(fleet, requests=[job]), queues=tree)
    (wait,) = plan(snapshot, NOW).waits
    return wait


class TestSubmitted:
    def test_more_than_all_that_the_queues_have_is_refused_with_the_most_that_it_could_have(self) -> None:
        check_possible(H100, a_vision(gpu=8, ranks=8))  # no queues: the pool holds it
        check_possible(H100, a_vision(gpu=6, ranks=2), queues=CENTRE)
        refused = refusal(H100, a_vision(gpu=8, ranks=8))
        assert refused.sentence == (
            "The job needs 64 gpu of h100 in all; queue vision can have 12 at most, by what centre and the queues "
            "below it have. Ask for less, or have vision given a larger nominal quota (`dujiang queues` shows them)."
        )
        assert refused.facts["queue"] == {
            "name": "vision", "flavor": "h100", "resource": "gpu_milli", "needed": 64_000, "most": 12_000,
            "limited_by": "centre",
        }  # fmt: skip

    def test_a_borrowing_limit_is_named(self) -> None:
        tree = limited(2, borrow=1)
        check_possible(a_fleet(1), a_job(gpu=3), queues=tree)
        assert refusal(a_fleet(1), a_job(gpu=4), tree).sentence == (
            "The job needs 4 gpu of h in all; queue q can have 3 at most, by its borrowing_limit. Ask for less, or "
            "have the borrowing_limit of q raised (`dujiang queues` shows them)."
        )

    def test_a_project_in_no_queue(self) -> None:
        assert refusal(a_fleet(1), a_job(gpu=1, project="other"), limited(2)).sentence == (
            "The job needs 1 gpu of h in all, which is given to queues alone, and its project is in none. Ask whoever "
            "sets the queues to name the project in one (`dujiang queues` shows them)."
        )
        check_possible(a_fleet(1), a_job(cpu=1, project="other"), queues=limited(2))

    def test_its_fewest_ranks_or_an_alternative_will_do(self) -> None:
        check_possible(a_fleet(1), a_job(gpu=1, ranks=4, ranks_min=2), queues=limited(2))
        check_possible(a_fleet(1), a_job(gpu=4, alternatives=(Ask(gpu_milli=2000),)), queues=limited(2))

    def test_what_the_pool_could_not_hold_either_is_told_of_the_pool(self) -> None:
        assert "the largest possible is 4" in refusal(a_fleet(1), a_job(gpu=5), limited(2)).sentence

    def test_a_flavor_elsewhere_is_no_help(self) -> None:
        fleet, tree = two_clusters()
        check_possible(fleet, a_job(gpu=4), queues=tree)
        refused = refusal(fleet, a_job(gpu=4, cluster="d"), tree)
        assert refused.facts["queue"]["flavor"] == "there"


class TestLowered:
    def test_it_is_told_that_only_a_larger_limit_starts_it(self) -> None:
        wait = told(H100, a_vision(gpu=8, ranks=8), CENTRE)
        assert (wait.reason, wait.is_for_good, wait.advice) == ("QueueQuota", True, FOR_GOOD)
        assert (wait.blocking_queue, wait.shortage.available) == ("centre", 12_000)
        assert wait.sentence == (
            "It needs 64 gpu of h100 in all; queue vision can have 12 at most, by what centre and the queues below it "
            "have: it starts only once that is raised, or it asks for less."
        )
        assert wait.change is not None
        assert wait.change.sentence == "It starts now with 1 node."

    def test_also_where_another_flavor_is_open_that_it_may_not_use(self) -> None:
        fleet, tree = two_clusters()
        wait = told(fleet, a_job(gpu=4, cluster="d"), tree)
        assert (wait.reason, wait.is_for_good) == ("QueueQuota", True)
        assert "queue q can have 1 at most, all of its own" in wait.sentence

    def test_a_project_that_was_taken_out_of_its_queue(self) -> None:
        wait = told(a_fleet(1), a_job(gpu=1, project="other"), limited(2))
        assert wait.is_for_good
        assert wait.sentence.endswith("and its project is in none: it starts only once a queue names its project.")

    def test_not_while_what_runs_may_end(self) -> None:
        snapshot = snapshot_of_rows(
            a_fleet(1), holdings=[holding("h", "n0", devices=(0, 1))], requests=[a_job(gpu=2)]
        )  # fmt: skip
        (wait,) = plan(replace(snapshot, queues=limited(2)), NOW).waits
        assert (wait.reason, wait.is_for_good) == ("QueueQuota", False)

    def test_it_holds_nobody_up(self) -> None:
        requests = [a_job("never", gpu=4), a_job("small", gpu=2, after_s=1)]
        snapshot = snapshot_of_rows(a_fleet(1), requests=requests)
        assert list(where(plan(replace(snapshot, queues=limited(2)), NOW))) == ["small"]


@settings(deadline=None, max_examples=60)
@given(crowded())
def test_for_good_is_what_would_be_refused_and_never_starts_on_an_empty_pool(snapshot: Any) -> None:
    waits = {wait.job_id: wait for wait in plan(snapshot, NOW).waits}
    for job in snapshot.requests:
        alone = replace(snapshot_of_rows(snapshot.fleet, requests=[job]), queues=snapshot.queues)
        starts = bool(plan(alone, NOW).starts)
        if job.job_id in waits:
            assert waits[job.job_id].is_for_good is not starts
        if starts:
            check_possible(snapshot.fleet, job, queues=snapshot.queues)
        else:
            assert refusal(snapshot.fleet, job, snapshot.queues).facts["queue"]["name"] == job.project_id
        check_possible(snapshot.fleet, job, queues=NO_QUEUES)


def limited(nominal: float, borrow: float | None = None) -> QueueTree:
    line = QuotaLine("h", gpus(nominal), gpus(borrow))
    other = QuotaLine("h", gpus(8))
    queues = [Queue("all"), Queue("q", "all", (line,), projects=("p",)), Queue("r", "all", (other,))]
    return QueueTree(queues if borrow is not None else [Queue("q", "", (line,), projects=("p",))], [QuotaFlavor("h")])


def two_clusters() -> tuple[Fleet, QueueTree]:
    nodes = [*some_nodes(1, 4, cluster="c"), *some_nodes(1, 4, cluster="d", prefix="m")]
    lines = QuotaLine("here", Limits(gpu_milli=4000)), QuotaLine("there", Limits(gpu_milli=1000))
    kinds = [QuotaFlavor("here", cluster="c"), QuotaFlavor("there", cluster="d")]
    tree = QueueTree([Queue("q", "", lines, projects=("p",))], kinds)
    return fleet_of_rows([ClusterRow("c"), ClusterRow("d")], nodes), tree

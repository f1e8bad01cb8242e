"""What goes to rented clusters: when, where, at what price, and never more than the day's budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.domain import (
    Ask,
    ClusterRow,
    Fleet,
    Holding,
    Plan,
    Quota,
    Request,
    Snapshot,
    TaskClass,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)
from dujiang.scheduling.domain.forecast import forecast
from dujiang.scheduling.domain.renting import BurstPolicy, Hours
from dujiang.scheduling.domain.rules import Rules
from dujiang.scheduling.domain.saved import dump, load
from tests.scheduling.building import NOW, a_job, holding, some_nodes, where, why
from tests.scheduling.test_properties import worlds

HOUR_S = 3600.0
POLICY = BurstPolicy(after_s=600, budget_per_day=Decimal(100), left=Decimal(100), currency="CNY")
SPOT = ClusterRow("spot", price=1.0, is_cloud=True, interruptions_per_day=2.0)


def a_pool(*clouds: ClusterRow, cloud_nodes: int = 2) -> Fleet:
    """One node of four devices, and two of as many in each cloud."""
    rows = some_nodes(1, 4)
    for cloud in clouds:
        rows += some_nodes(cloud_nodes, 4, cluster=cloud.name, prefix=f"{cloud.name}-")
    return fleet_of_rows([ClusterRow("c"), *clouds], rows)


CLOUD = ClusterRow("cloud", price=2.0, is_cloud=True)
FLEET = a_pool(CLOUD)
FULL = [holding("h", "n0", devices=(0, 1, 2, 3), ends_in_s=100_000)]


def a_waiting(job_id: str = "a", *, waited_s: float = 600, hours: float | None = 1, **more: Any) -> Request:
    limit_s = None if hours is None else hours * HOUR_S
    return a_job(job_id, gpu=more.pop("gpu", 4), after_s=-waited_s, runs_at_most_s=limit_s, **more)


def world(
    *jobs: Request, fleet: Fleet = FLEET, held: Sequence[Holding] = FULL, policy: BurstPolicy = POLICY, **more: Any
) -> Snapshot:
    made = snapshot_of_rows(fleet, holdings=held, requests=jobs, **more)
    return replace(made, rules=Rules(reservations=0, burst=policy))


def bursts(found: Plan) -> dict[str, tuple[str, str]]:
    """Job to its rented cluster and estimate."""
    return {start.job_id: (start.cluster, str(start.rent.total)) for start in found.starts if start.rent}


class TestWhen:
    def test_after_the_limit(self) -> None:
        assert bursts(plan(world(a_waiting()), NOW)) == {"a": ("cloud", "8.00")}
        found = plan(world(a_waiting(waited_s=599)), NOW)
        assert (bursts(found), why(found)) == ({}, {"a": "Resources"})

    def test_without_a_policy_never(self) -> None:
        snapshot = replace(world(a_waiting(waited_s=HOUR_S)), rules=Rules())
        assert plan(snapshot, NOW).starts == ()

    def test_its_prepared_start_is_too_far_off(self) -> None:
        near = [holding("h", "n0", devices=(0, 1, 2, 3), ends_in_s=599)]
        for held, goes in ((FULL, True), (near, False)):
            snapshot = world(a_waiting(waited_s=0), held=held)
            snapshot = replace(snapshot, rules=replace(snapshot.rules, reservations=1))
            assert bool(bursts(plan(snapshot, NOW))) == goes

    def test_its_own_pool_could_never_hold_it(self) -> None:
        assert bursts(plan(world(a_waiting(waited_s=0, ranks=2), held=()), NOW)) == {"a": ("cloud", "16.00")}

    def test_not_while_its_own_pool_has_room(self) -> None:
        found = plan(world(a_waiting(waited_s=9999), held=()), NOW)
        assert (where(found), bursts(found)) == ({"a": [("n0", [0, 1, 2, 3])]}, {})

    def test_what_bursts_does_not_wait(self) -> None:
        found = plan(world(a_waiting("a"), a_waiting("b", waited_s=0)), NOW)
        assert why(found) == {"b": "Resources"}
        assert [wait.position for wait in found.waits] == [1]

    def test_the_forecast_says_when(self) -> None:
        told = forecast(world(a_waiting(waited_s=0)), NOW)["a"]
        assert (told.at, told.start and told.start.cluster) == (NOW + timedelta(seconds=600), "cloud")

    def test_and_keeps_to_the_budget(self) -> None:
        jobs = [a_waiting(f"j{n}", waited_s=n, hours=10) for n in range(3)]  # 80 each
        told = forecast(world(*jobs), NOW)
        assert [one.start is not None and one.start.rent is not None for one in told.values()].count(True) == 1


class TestWho:
    @pytest.mark.parametrize(
        ("job", "policy", "goes"),
        [
            ({}, {}, True),
            ({"task_class": TaskClass.CORE}, {}, True),
            ({"task_class": TaskClass.LOW}, {}, False),
            ({"task_class": TaskClass.LOW}, {"classes": (TaskClass.LOW,)}, True),
            ({"may_burst": False}, {}, False),
            ({}, {"only_asked": True}, False),
            ({"may_burst": True}, {"only_asked": True}, True),
            ({}, {"projects": ("q",)}, False),
            ({}, {"projects": ("p", "q")}, True),
            ({"hours": None}, {}, False),
            ({"hours": None, "expected_s": HOUR_S}, {}, True),
            ({"gpu": 0, "cpu": 32}, {}, True),
            ({"cluster": "c"}, {}, False),
        ],
    )
    def test_by_policy(self, job: dict[str, Any], policy: dict[str, Any], goes: bool) -> None:
        held = [holding("h", "n0", devices=(0, 1, 2, 3), cpu=32, ends_in_s=100_000)]
        found = plan(world(a_waiting(**job), policy=replace(POLICY, **policy), held=held), NOW)
        assert bool(bursts(found)) == goes

    @pytest.mark.parametrize(
        ("asks", "cost"),
        [
            ({"cpu": 8}, "2.00"),  # a quarter of the processors: one of four devices
            ({"cpu": 8, "memory_gib": 128}, "4.00"),  # half of the memory
            ({"cpu": 0.001}, "0.01"),
            ({"cpu": 8, "ranks": 2}, "4.00"),
        ],
    )
    def test_work_without_devices_pays_for_its_part_of_the_nodes(self, asks: dict[str, Any], cost: str) -> None:
        held = [holding("h", "n0", devices=(0, 1, 2, 3), cpu=32, ends_in_s=100_000)]
        assert bursts(plan(world(a_waiting(gpu=0, **asks), held=held), NOW)) == {"a": ("cloud", cost)}
        dear = replace(POLICY, left=Decimal(cost) - Decimal("0.01"))
        assert bursts(plan(world(a_waiting(gpu=0, **asks), held=held, policy=dear), NOW)) == {}

    def test_nodes_without_devices_have_no_price(self) -> None:
        rows = [*some_nodes(1, 4), *some_nodes(2, 0, cluster="cloud", prefix="cloud-")]
        held = [holding("h", "n0", devices=(0, 1, 2, 3), cpu=32, ends_in_s=100_000)]
        fleet = fleet_of_rows([ClusterRow("c"), CLOUD], rows)
        assert bursts(plan(world(a_waiting(gpu=0, cpu=8), held=held, fleet=fleet), NOW)) == {}

    def test_the_quota_of_its_project_counts_there_too(self) -> None:
        held = [holding("h", "n0", devices=(0, 1, 2, 3), ends_in_s=100_000, project="q")]
        jobs = [a_waiting("a"), a_waiting("b", waited_s=601)]
        found = plan(world(*jobs, held=held, quotas={"p": Quota(gpu_milli=4000)}), NOW)
        assert bursts(found) == {"b": ("cloud", "8.00")}

    def test_work_is_being_stopped_for_it(self) -> None:
        held = [holding("h", "n0", devices=(0, 1, 2, 3), ends_in_s=100_000, task_class=TaskClass.LOW, may_stop=True,
                        started_s=-9999)]  # fmt: skip
        found = plan(world(a_waiting(task_class=TaskClass.CORE), held=held), NOW)
        assert (bursts(found), [stop.job_id for stop in found.stops]) == ({}, ["h"])


class TestBudget:
    def test_what_is_left(self) -> None:
        policy = replace(POLICY, left=Decimal("7.99"))
        assert bursts(plan(world(a_waiting(), policy=policy), NOW)) == {}
        found = plan(world(a_waiting(), policy=replace(policy, left=Decimal(8))), NOW)
        assert [start.rent and start.rent.left for start in found.starts] == [Decimal(0)]

    def test_a_cheaper_one_passes_what_it_does_not_reach(self) -> None:
        jobs = [a_waiting("dear", hours=10, waited_s=700), a_waiting("cheap")]
        assert bursts(plan(world(*jobs, policy=replace(POLICY, left=Decimal(10))), NOW)) == {"cheap": ("cloud", "8.00")}

    def test_shares_cost_their_part(self) -> None:
        assert bursts(plan(world(a_waiting(gpu=0.5)), NOW)) == {"a": ("cloud", "1.00")}


class TestWhere:
    def test_the_cheapest_that_has_room(self) -> None:
        dear = ClusterRow("dear", price=3.0, is_cloud=True)
        fleet = a_pool(CLOUD, dear, cloud_nodes=1)
        found = plan(world(a_waiting("a", waited_s=700), a_waiting("b"), fleet=fleet), NOW)
        assert bursts(found) == {"a": ("cloud", "8.00"), "b": ("dear", "12.00")}

    def test_alternatives_in_their_order(self) -> None:
        job = a_waiting(gpu=8, alternatives=(Ask(2000), Ask(1000)))
        assert bursts(plan(world(job), NOW)) == {"a": ("cloud", "4.00")}

    def test_an_elastic_job_takes_the_fewest(self) -> None:
        found = plan(world(a_waiting(ranks=4, ranks_min=2)), NOW)
        assert bursts(found) == {"a": ("cloud", "16.00")}


class TestSpot:
    def test_only_what_goes_on_from_a_checkpoint(self) -> None:
        fleet = a_pool(CLOUD, SPOT)
        assert bursts(plan(world(a_waiting(), fleet=fleet), NOW)) == {"a": ("cloud", "8.00")}
        saving = a_waiting(may_restart=True, saves_every_s=600)
        # 2 a day for an hour, each costs half of 600 s: 25 s more, of four devices
        assert bursts(plan(world(saving, fleet=fleet), NOW)) == {"a": ("spot", "4.03")}
        assert bursts(plan(world(saving, fleet=fleet, policy=replace(POLICY, spot=False)), NOW)) == {
            "a": ("cloud", "8.00")
        }

    @pytest.mark.parametrize(("per_day", "cluster"), [(2.0, "spot"), (90.0, "spot"), (98.0, "cloud")])
    def test_only_where_it_saves_more_than_it_loses(self, per_day: float, cluster: str) -> None:
        """At half the price it may do as much again: 48 interruptions a day of half an hour each are where it ends."""
        fleet = a_pool(CLOUD, replace(SPOT, interruptions_per_day=per_day))
        job = a_waiting(may_restart=True, saves_every_s=1800)
        assert bursts(plan(world(job, fleet=fleet), NOW))["a"][0] == cluster

    def test_full_regular_cloud_does_not_make_dear_spot_worth_it(self) -> None:
        fleet = a_pool(CLOUD, replace(SPOT, price=1.99, interruptions_per_day=24))
        held = [*FULL, *(holding(f"x{n}", f"cloud-{n}", devices=(0, 1, 2, 3), cluster="cloud") for n in range(2))]
        job = a_waiting(may_restart=True, saves_every_s=1800)
        assert bursts(plan(world(job, fleet=fleet, held=held), NOW)) == {}

    def test_alone_it_must_get_on(self) -> None:
        job = a_waiting(may_restart=True)  # half an hour is lost each time, for all that is known
        for per_day, goes in ((40.0, True), (48.0, False)):
            fleet = a_pool(replace(SPOT, interruptions_per_day=per_day))
            assert bool(bursts(plan(world(job, fleet=fleet), NOW))) == goes


class TestOffPeak:
    NIGHT = Hours(22 * 60, 6 * 60)

    @pytest.mark.parametrize(("hour", "end"), [(21, None), (22, 6), (23, 6), (0, 6), (5, 6), (6, None), (12, None)])
    def test_hours_over_midnight(self, hour: int, end: int | None) -> None:
        found = self.NIGHT.end(NOW.replace(hour=hour))
        assert (found and found.hour) == end
        assert found is None or found > NOW.replace(hour=hour)

    @pytest.mark.parametrize(("hour", "hours", "goes"), [(23, 1, True), (5, 1, True), (5, 1.1, False), (12, 1, False)])
    def test_low_work_goes_there_at_night_and_is_over_in_the_morning(self, hour: int, hours: float, goes: bool) -> None:
        now = NOW.replace(hour=hour)
        low = a_waiting(task_class=TaskClass.LOW, hours=hours)
        policy = replace(POLICY, low_hours=self.NIGHT)
        assert bool(bursts(plan(world(low, policy=policy), now))) == goes
        assert bursts(plan(world(a_waiting(hours=hours), policy=policy), now))


class TestSaved:
    def test_a_policy_comes_back_as_it_was(self) -> None:
        policy = replace(POLICY, low_hours=Hours(0, 60), left=Decimal("-3.20"), projects=("p",))
        snapshot = world(a_waiting(), policy=policy)
        back, at = load(dump(snapshot, NOW))
        assert (back.rules, at) == (snapshot.rules, NOW)
        assert plan(back, at) == plan(snapshot, NOW)


policies = st.builds(
    BurstPolicy,
    after_s=st.sampled_from([0.0, 600.0]),
    budget_per_day=st.just(Decimal(20)),
    left=st.sampled_from([Decimal(0), Decimal(3), Decimal(20)]),
    classes=st.sampled_from([tuple(TaskClass), (TaskClass.NORMAL,)]),
)


@given(worlds(), policies, st.booleans())
@settings(max_examples=300, deadline=None)
def test_bursts_of_any_world(snapshot: Snapshot, policy: BurstPolicy, is_spot: bool) -> None:
    """Own starts are as without a policy; the budget holds; nothing bursts that its own pool has room for."""
    rows = [
        replace(row, price=0.7, is_cloud=True, interruptions_per_day=3.0 if is_spot else 0.0)
        if row.name == "d"
        else row
        for row in snapshot.fleet.clusters
    ]
    fleet = replace(snapshot.fleet, clusters=tuple(rows))
    requests = tuple(
        replace(one, may_restart=number % 2 == 0, saves_every_s=300.0) for number, one in enumerate(snapshot.requests)
    )
    snapshot = replace(snapshot, fleet=fleet, requests=requests, rules=replace(snapshot.rules, burst=None))
    without = plan(snapshot, NOW, telling=False)
    bursting = replace(snapshot, rules=replace(snapshot.rules, burst=policy))
    found = plan(bursting, NOW)
    own = [start for start in found.starts if start.rent is None]
    assert own == list(without.starts)
    assert found.stops == without.stops or not without.stops
    asked = {request.job_id: request for request in requests}
    left = policy.left
    for start in found.starts:
        if start.rent is None:
            continue
        assert start.cluster == "d"
        assert not asked[start.job_id].where.cluster
        left -= start.rent.total
        assert start.rent.left == left
        assert left >= 0
    started = {start.job_id for start in found.starts}
    assert not started & {wait.job_id for wait in found.waits}
    assert len(started) + len(found.waits) == len(requests)
    assert found.starts == plan(replace(bursting, requests=requests[::-1]), NOW, telling=False).starts
    check_room(bursting, found)


def check_room(snapshot: Snapshot, found: Plan) -> None:
    milli = snapshot.device_milli.copy()
    for start in found.starts:
        for rank in start.ranks:
            node = snapshot.fleet.node_at[start.cluster, rank.node]
            for share in rank.devices:
                milli[snapshot.fleet.device_at[node, share.name]] -= share.gpu_milli
    assert milli.min(initial=0) >= 0


def test_time_of_day_has_no_gaps() -> None:
    day = Hours(8 * 60, 20 * 60)
    night = Hours(20 * 60, 8 * 60)
    moment: datetime = NOW
    for _ in range(24 * 4):
        assert (day.end(moment) is None) != (night.end(moment) is None)
        moment += timedelta(minutes=15)

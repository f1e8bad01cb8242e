"""The ledger against the accounts of a cluster: what is the same, what differs and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dujiang.engines.contract import Accounted, AttemptKey, EngineRefused
from dujiang.engines.lines import Lines
from dujiang.pool import accounts_api
from dujiang.pool.domain import LedgerFilter
from dujiang.pool.domain.accounts import Holding, Reconciliation, holdings, reconcile_accounts
from tests.pool.served import as_, serving
from tests.pool.worlds import CLUSTER, a_grant, a_node, a_rank, world

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
KEY = AttemptKey("job_a", 1)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


OURS = Holding(KEY, at(0), at(100), 1500, 1500, 2000, 2, ("n1",))
THEIRS = Accounted(KEY, "17", "COMPLETED", at(1), at(101), 100.0, 2000, 2, ("n1",))


def compared(
    ours: Holding | None, *theirs: Accounted, since: datetime = at(-1000), until: datetime = at(1000)
) -> Reconciliation:
    mine = {} if ours is None else {ours.key: ours}
    return reconcile_accounts("hpc", mine, theirs, since=since, until=until, tolerance_s=5.0)


def test_what_is_the_same_within_the_tolerance_holds() -> None:
    found = compared(OURS, THEIRS)
    assert (found.holds, found.attempts, found.compared) == (True, 1, ())
    assert (found.our_gpu_s, found.their_gpu_s, found.difference_gpu_s) == (200.0, 200.0, 0.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (OURS, [replace(THEIRS, started_at=at(40))], "it began there 40 s after it was held here"),
        (OURS, [replace(THEIRS, ended_at=at(80), elapsed_s=79)], "it was given back here 20 s after it ended there"),
        (OURS, [replace(THEIRS, ended_at=at(190), elapsed_s=189)], "it was given back here 90 s before it ended there"),
        (OURS, [replace(THEIRS, elapsed_s=60)], "it was suspended there for 40 s of 100 s"),
        (OURS, [replace(THEIRS, ended_at=None, elapsed_s=999)], "it was given back here 900 s ago and runs there"),
        (replace(OURS, ended_at=None), [THEIRS], "it ended there 899 s ago (COMPLETED) and is held here"),
        (OURS, [replace(THEIRS, devices=3)], "2 devices here, 3 there"),
        (replace(OURS, gpu_milli=1500), [THEIRS], "1.5 devices by shares here, 2 whole ones there"),
        (OURS, [replace(THEIRS, cpu_milli=1000)], "1.5 processors here, 1 there"),
        (OURS, [replace(THEIRS, cpu_milli=9000)], "1.5 processors here, 9 there"),
        (OURS, [replace(THEIRS, nodes=("n2",))], "on n1 here, on n2 there"),
        (OURS, [replace(THEIRS, started_at=None, ended_at=None, elapsed_s=0)], "held for 100 s, and it never began"),
        (OURS, [THEIRS, replace(THEIRS, job="18", elapsed_s=30)], "it ran once more there: 30 s as job 18"),
        (OURS, [], "only the ledger has it: 100 s"),
        (None, [THEIRS], "only the cluster has it: 100 s as job 17"),
    ],
)
def test_each_difference_is_told(ours: Holding | None, theirs: Sequence[Accounted], told: str) -> None:
    found = compared(ours, *theirs)
    (one,) = found.compared
    assert not found.holds
    assert [sentence for sentence in one.differences if sentence.startswith(told)], one.differences


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (replace(OURS, ended_at=at(4)), []),  # placed and taken back at once: it never got there
        (None, [replace(THEIRS, ended_at=at(3), elapsed_s=2)]),  # a second job that ran nothing
        (OURS, [THEIRS, replace(THEIRS, job="18", elapsed_s=1)]),
        (OURS, [replace(THEIRS, cpu_milli=3000)]),  # two cores of two threads, less one
        (replace(OURS, ended_at=None), [replace(THEIRS, ended_at=None, elapsed_s=999)]),
        (replace(OURS, ended_at=at(2000)), [replace(THEIRS, ended_at=at(2003), elapsed_s=2002)]),
    ],
)
def test_what_is_too_short_or_rounded_up_is_no_difference(ours: Holding | None, theirs: Sequence[Accounted]) -> None:
    assert compared(ours, *theirs).compared == ()


def test_only_what_lies_in_the_time_is_summed() -> None:
    found = compared(OURS, THEIRS, since=at(50), until=at(60))
    assert (found.our_gpu_s, found.their_gpu_s) == (20.0, 20.0)
    found = compared(OURS, replace(THEIRS, elapsed_s=5), since=at(50), until=at(60))
    assert found.their_gpu_s == 10.0


class Bookkeeper:
    """An engine of which nothing is asked but its accounts."""

    kind = "kept"

    def __init__(self) -> None:
        self.books: list[Accounted] = []

    async def accounted(self, since: datetime, until: datetime) -> Sequence[Accounted]:
        """Return them."""
        assert since < until
        return self.books


class Other:
    """An engine that keeps no accounts."""

    kind = "other"


async def test_the_route_compares_what_the_pool_holds() -> None:
    async with world() as w:
        engine = Bookkeeper()
        lines = Lines({CLUSTER: engine, "plain": Other()}, clock=w.clock, within_s=5.0)  # type: ignore[dict-item]
        async with serving(w, lambda _tenancy: accounts_api.router(w.pool, lines)) as client:
            await w.sync(a_node("n1", devices=2))
            began = w.clock.now()
            async with w.db.transaction() as tx:
                grant = a_grant("job_1", a_rank("n1", cpu_milli=1500, shares={0: 1000, 1: 1000}))
                await w.pool.allocate_many(tx, [grant])
            w.clock.advance(60)
            async with w.db.transaction() as tx:
                await w.pool.release(tx, grant.key)
                rows = await w.pool.allocations(tx, LedgerFilter())
                inventory = await w.pool.inventory(tx)
            (held,) = holdings(rows, inventory, inventory.cluster_ids[CLUSTER]).values()
            assert (held.devices, held.gpu_milli, held.cpu_milli, held.nodes) == (2, 2000, 1500, ("n1",))
            assert holdings(rows, inventory, "clu_other") == {}
            ended = began + timedelta(seconds=60)
            engine.books = [Accounted(grant.key, "5", "COMPLETED", began, ended, 60.0, 2000, 2, ("n1",))]
            path = "/v1/allocations/reconcile"
            told = (await client.get(path, headers=as_("auditor"))).json()
            assert (told["holds"], [each["cluster"] for each in told["clusters"]]) == (True, [CLUSTER])
            assert told["clusters"][0]["ledger_gpu_s"] == told["clusters"][0]["accounts_gpu_s"] == 120.0
            engine.books = []
            told = (await client.get(f"{path}?cluster={CLUSTER}", headers=as_("operator"))).json()
            (item,) = told["clusters"][0]["items"]
            assert (told["holds"], item["job_id"], item["accounts"]) == (False, "job_1", [])
            assert (await client.get(f"{path}?tolerance_s=61", headers=as_("operator"))).json()["holds"] is True
            for query, status in (("cluster=plain", 409), ("cluster=none", 404), ("since=2090-01-01T00:00:00Z", 422)):
                assert (await client.get(f"{path}?{query}", headers=as_("operator"))).status_code == status
            assert (await client.get(path, headers=as_("member"))).status_code == 403


async def test_where_no_cluster_keeps_accounts_that_is_said() -> None:
    async with world() as w:
        lines = Lines({"plain": Other()}, clock=w.clock, within_s=5.0)  # type: ignore[dict-item]
        with pytest.raises(EngineRefused, match="keeps no accounts"):
            await lines["plain"].accounted(at(0), at(1))
        async with serving(w, lambda _tenancy: accounts_api.router(w.pool, lines)) as client:
            said = await client.get("/v1/allocations/reconcile", headers=as_("operator"))
            assert (said.status_code, "keeps accounts" in said.json()["detail"]) == (409, True)

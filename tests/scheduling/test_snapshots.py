"""From the pool and its ledger to a snapshot, a plan, and back into the ledger."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from dujiang.engines.contract import AttemptKey
from dujiang.pool.domain import Grant
from dujiang.pool.domain.ledger import LedgerFilter
from dujiang.scheduling.domain import About, Snapshots, holdings_of_ledger, plan, snapshot_of_rows
from tests.pool.worlds import CLUSTER, GIB, a_device, a_grant, a_node, a_rank, world
from tests.scheduling.building import a_job, where, why


async def test_what_is_planned_is_allocated_and_the_next_plan_sees_it() -> None:
    async with world() as w:
        await w.sync(a_node("n1", devices=2), a_node("n2"), a_node("n3", devices=1, cordoned=True, reason="fan"))
        now, snapshots = w.clock.now(), Snapshots()
        jobs = [
            a_job("job_a", gpu=0.5, cpu=1), a_job("job_b", gpu=1, memory_gib=4, after_s=1),
            a_job("job_c", gpu=2, after_s=2), a_job("job_d", cpu=3, after_s=3),
        ]  # fmt: skip
        async with w.db.transaction() as tx:
            snapshot = snapshots.take(await w.pool.placeable(tx), holdings=[], requests=jobs)
            done = plan(snapshot, now)
            assert where(done) == {"job_a": [("n1", [0])], "job_b": [("n1", [1])], "job_d": [("n2", [])]}
            assert why(done) == {"job_c": "Priority"}
            grants = [Grant(AttemptKey(s.job_id, 1), s.project_id, s.cluster, s.ranks) for s in done.starts]
            await w.pool.allocate_many(tx, grants, done.version)
        async with w.db.reading() as tx:
            view, inventory = await w.pool.placeable(tx), await w.pool.inventory(tx)
            rows = await w.pool.allocations(tx, LedgerFilter(live=True))
        ends = {AttemptKey("job_a", 1): About(ends_at=now + timedelta(seconds=60))}
        held = holdings_of_ledger(inventory, rows, ends)
        assert [(h.job_id, h.cluster, h.ends_at is None) for h in held] == [
            ("job_a", CLUSTER, False), ("job_b", CLUSTER, True), ("job_d", CLUSTER, True)]  # fmt: skip
        assert [h.ranks for h in held] == [start.ranks for start in done.starts]
        fleet = snapshots.fleet(view)
        again = snapshots.take(view, holdings=held, requests=jobs[2:3])
        assert again.fleet is fleet
        from_rows = snapshot_of_rows(fleet, holdings=held)
        for taken, made in [
            (again.node_free, from_rows.node_free), (again.device_milli, from_rows.device_milli),
            (again.device_memory, from_rows.device_memory),
        ]:  # fmt: skip
            assert (taken == made).all()
        wait = plan(again, now).waits[0]
        assert (wait.reason, wait.blocking_job, wait.earliest) == ("Resources", "job_b", None)


async def test_a_node_that_shrank_gets_nothing_more_of_what_it_lacks() -> None:
    async with world() as w:
        await w.sync(a_node("n1", devices=1))
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_x", a_rank("n1", cpu_milli=6000, memory_bytes=GIB))])
        await w.sync(a_node("n1", devices=1, cpu_milli=4000))
        async with w.db.reading() as tx:
            view = await w.pool.placeable(tx)
        jobs = [a_job("a", cpu=1), a_job("b", gpu=1)]
        done = plan(Snapshots().take(view, holdings=[], requests=jobs), w.clock.now())
        assert (list(where(done)), why(done)) == (["b"], {"a": "Resources"})


async def test_a_broken_device_is_left_alone() -> None:
    async with world() as w:
        await w.sync(replace(a_node("n1"), devices=(a_device(0, healthy=False), a_device(1))))
        async with w.db.reading() as tx:
            view = await w.pool.placeable(tx)
        jobs = [a_job("a", gpu=0.1), a_job("b", gpu=1)]
        done = plan(Snapshots().take(view, holdings=[], requests=jobs), w.clock.now())
        assert (where(done), why(done)) == ({"a": [("n1", [1])]}, {"b": "Priority"})

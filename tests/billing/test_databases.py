"""What must hold on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import asyncio

from dujiang.billing.domain import Resource
from dujiang.billing.service import BillingService, RateReport
from dujiang.engines.contract import AttemptKey
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.errors import DujiangError
from tests.pool.worlds import GIB, World, a_grant, a_node, a_rank


async def test_two_replicas_that_rate_at_once_charge_everything_once(database: Database, clock: ManualClock) -> None:
    w = World(database, clock)
    billing = BillingService(w.ids, w.pool)
    await w.sync(a_node(devices=2))
    async with database.transaction() as tx:
        await billing.install_defaults(tx)
        ranks = [a_rank(shares={number % 2: 100}, device_memory_bytes=GIB, cpu_milli=500) for number in range(8)]
        await w.pool.allocate_many(tx, [a_grant(f"job_{number}", rank) for number, rank in enumerate(ranks)])
    clock.advance(3600)
    async with database.transaction() as tx:
        await w.pool.release_many(tx, [(AttemptKey(f"job_{number}", 1), None) for number in range(7)])

    async def rate() -> RateReport:
        try:
            async with database.transaction() as tx:
                return await BillingService(w.ids, w.pool).rate_closed(tx, 3)
        except DujiangError:
            return RateReport(0, 0, more=True)  # the first row of the cursor may collide; the next tick goes on

    while any(report.more for report in await asyncio.gather(rate(), rate())):
        pass
    async with database.reading() as tx:
        verdict = await billing.verify(tx)
        assert (verdict.holds, verdict.rows, verdict.charges, verdict.waiting) == (True, 14, 28, 0)
        bill = await billing.bill(tx, "prj_a")
        found = {line.key.resource: (str(line.cost.amount), line.provisional_quantity > 0) for line in bill.lines}
        assert found == {
            Resource.GPU: ("8.00", True), Resource.GPU_MEMORY: ("0.00", True), Resource.CPU: ("0.80", True),
            Resource.MEMORY: ("0.16", True),
        }  # fmt: skip
        assert str(bill.total) == "8.96 CNY"
        assert len(await billing.charges(tx, period="2026-01", job_id="job_3")) == 4
        assert await billing.billed_projects(tx) == ["prj_a"]

"""What `dujiang verify` asks of each part, and how the answers are put."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dujiang.api.verify import Found, Proof
from dujiang.billing.service import BillingService
from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.lines import Line
from dujiang.engines.local.engine import LocalEngine
from dujiang.jobs.history import check_allocations, check_histories
from dujiang.jobs.loop.sweeping import orphans
from dujiang.kit.db import Database
from dujiang.pool.domain import LedgerFilter
from dujiang.pool.service import PoolService
from dujiang.tenancy.audit import Audit


def proofs(
    *, db: Database, pool: PoolService, billing: BillingService, audit: Audit, clusters: Mapping[str, Line]
) -> Sequence[Proof]:
    """Return the proofs, in the order in which they are shown."""

    async def ledger() -> Found:
        async with db.reading() as tx:
            violations = await pool.check_ledger(tx)
            rows = len(await pool.allocations(tx, LedgerFilter()))
        return Found(
            rows, "No node or device was over-allocated at any moment.",
            [(", ".join(each.rows[:5]), each.sentence) for each in violations],
        )  # fmt: skip

    async def allocations() -> Found:
        async with db.reading() as tx:
            count, breaches = await check_allocations(tx, pool)
        sentence = "Live attempts hold what they were given, and nothing else is held."
        return Found(count, sentence, [(each.row, each.sentence) for each in breaches])

    async def histories() -> Found:
        async with db.reading() as tx:
            count, breaches = await check_histories(tx)
        sentence = "Every job is in the state its history leads to, by legal steps."
        return Found(count, sentence, [(each.row, each.sentence) for each in breaches])

    async def trail() -> Found:
        proof = await audit.prove()
        breaches = [(str(each.seq), each.why) for each in proof.breaks]
        return Found(proof.records, "No record was changed, removed or inserted.", breaches)

    async def charges() -> Found:
        async with db.reading() as tx:
            verdict = await billing.verify(tx)
        breaches = [(each.allocation_id or ", ".join(each.charge_ids), each.sentence) for each in verdict.offences]
        breaches += [
            (str(each.resource), f"the sums differ by {each.difference}")
            for each in verdict.identities
            if each.difference and not verdict.offences
        ]
        waiting = (
            f" {verdict.waiting} rows were closed a moment ago and are not charged yet." if verdict.waiting else ""
        )
        return Found(verdict.rows, f"What was charged is what the ledger says.{waiting}", breaches)

    async def processes() -> Found:
        count, breaches, unseen = 0, list[tuple[str, str]](), list[tuple[str, str]]()
        for cluster, line in sorted(clusters.items()):
            try:  # each by itself: what one of them hides is no reason to be silent about the others
                found, more = await _look(db, cluster, line)
            except EngineUnavailable as error:
                unseen.append((cluster, f"{cluster} could not be looked at: {error.sentence}"))
            else:
                count, breaches = count + found, breaches + more
        where = " on the clusters that answer" if unseen else ""
        return Found(count, f"Nothing runs{where} that is nobody's.", breaches, unseen)

    return (
        Proof("ledger", ledger),
        Proof("allocations", allocations),
        Proof("jobs", histories),
        Proof("audit", trail),
        Proof("charges", charges),
        Proof("processes", processes),
    )


async def _look(db: Database, cluster: str, line: Line) -> tuple[int, list[tuple[str, str]]]:
    """Return how many attempts a cluster knows, and what runs there and is nobody's.

    Raises:
        EngineUnavailable: it does not answer.
    """
    found = [(f"{cluster}/{key}", "it runs and is nobody's") for _, key in await orphans(db, {cluster: line})]
    engine = line.engine
    if isinstance(engine, LocalEngine):
        found += [
            (f"{cluster}/pid {stray.pid}", f"{stray.name} of {stray.key} runs and nobody watches over it")
            for stray in await engine.strays()
        ]
    return len(await line.attempts()), found

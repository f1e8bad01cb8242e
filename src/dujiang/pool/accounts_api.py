"""The route that compares the ledger with what clusters account themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query

from dujiang.engines.contract import Accounted, Accounts, EngineRefused
from dujiang.engines.lines import Line
from dujiang.kit.errors import Invalid
from dujiang.kit.http import Model, Moment
from dujiang.pool.domain import LedgerFilter, UnknownCluster
from dujiang.pool.domain.accounts import (
    DEFAULT_TOLERANCE_S,
    Compared,
    Holding,
    Reconciliation,
    holdings,
    reconcile_accounts,
)
from dujiang.pool.schemas import aware
from dujiang.pool.service import PoolService
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission

MOST_SHOWN: Final = 1000
_DAY: Final = timedelta(days=1)
Verifier = Annotated[Caller, Depends(needs(Permission.PLATFORM_VERIFY))]


class HoldingOut(Model):
    """What the ledger says that an attempt held."""

    started_at: datetime
    ended_at: datetime | None
    cpu_milli: int
    gpu_milli: int
    devices: int
    nodes: list[str]


class AccountedOut(Model):
    """What the cluster's accounts say of one piece of work for an attempt."""

    job: str
    """Its name there."""
    state: str
    """In the cluster's own words."""
    started_at: datetime | None
    ended_at: datetime | None
    elapsed_s: float
    cpu_milli: int
    devices: int
    nodes: list[str]


class ComparedOut(Model):
    """An attempt that differs; a side that does not know it says nothing of it."""

    job_id: str
    attempt: int
    ledger: HoldingOut | None
    accounts: list[AccountedOut]
    differences: list[str]


class ReconciliationOut(Model):
    """The ledger and the accounts of one cluster in one time."""

    cluster: str
    holds: bool
    """No attempt differs by more than the tolerance."""
    since: datetime
    until: datetime
    tolerance_s: float
    attempts: int
    """That either side knows of."""
    differing: int
    ledger_gpu_s: float
    """GPU seconds within the time, as the ledger holds them: from placement to the end that we saw."""
    accounts_gpu_s: float
    difference_gpu_s: float
    items: list[ComparedOut]
    """Those that differ, the first thousand."""


class ReconciliationsOut(Model):
    """All clusters that were compared."""

    holds: bool
    clusters: list[ReconciliationOut]


def router(pool: PoolService, clusters: Mapping[str, Line]) -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/v1", tags=["pool"])

    @routes.get("/allocations/reconcile", responses={409: {"description": "No cluster keeps accounts of its own"}})
    async def reconcile_allocations(
        caller: Verifier,
        cluster: Annotated[str | None, Query(max_length=253, description="Left out: all that keep accounts.")] = None,
        since: Annotated[Moment | None, Query(description="Left out: a day before `until`.")] = None,
        until: Annotated[Moment | None, Query(description="Left out: now.")] = None,
        tolerance_s: Annotated[
            float, Query(ge=0, le=86_400, allow_inf_nan=False, description="How far clocks, rounding and ways may go.")
        ] = DEFAULT_TOLERANCE_S,
    ) -> ReconciliationsOut:
        """Compare the ledger with the accounts that a cluster keeps itself, such as `sacct`; names what differs."""
        names = _chosen(clusters, cluster)
        found = []
        for name in names:
            async with caller.reading() as tx:
                end = aware(until) or tx.now
                begin = aware(since) or end - _DAY
                if begin >= end:
                    raise Invalid("`since` must lie before `until`, and before now.")
                inventory = await pool.inventory(tx)
                rows = await pool.allocations(tx, LedgerFilter(since=begin, until=end))
            theirs = await clusters[name].accounted(begin, end)
            ours = holdings(rows, inventory, inventory.cluster_ids.get(name, ""))
            found.append(
                reconcile_accounts(name, ours, theirs, since=begin, until=end, tolerance_s=tolerance_s)
            )  # fmt: skip
        return ReconciliationsOut(holds=all(one.holds for one in found), clusters=[_out(one) for one in found])

    return routes


def _chosen(clusters: Mapping[str, Line], name: str | None) -> Sequence[str]:
    if name is not None:
        if name not in clusters:
            raise UnknownCluster(f'There is no cluster "{name}".')
        return [name]
    keep = [each for each in sorted(clusters) if isinstance(clusters[each].engine, Accounts)]
    if not keep:
        raise EngineRefused("No cluster keeps accounts of its own: there is nothing to compare the ledger with.")
    return keep


def _out(found: Reconciliation) -> ReconciliationOut:
    return ReconciliationOut(
        cluster=found.cluster, holds=found.holds, since=found.since, until=found.until, tolerance_s=found.tolerance_s,
        attempts=found.attempts, differing=len(found.compared), ledger_gpu_s=round(found.our_gpu_s, 3),
        accounts_gpu_s=round(found.their_gpu_s, 3), difference_gpu_s=round(found.difference_gpu_s, 3),
        items=[_compared(one) for one in found.compared[:MOST_SHOWN]],
    )  # fmt: skip


def _compared(one: Compared) -> ComparedOut:
    return ComparedOut(
        job_id=one.key.job_id, attempt=one.key.number, ledger=_holding(one.ours) if one.ours else None,
        accounts=[_accounted(each) for each in one.theirs], differences=list(one.differences),
    )  # fmt: skip


def _holding(one: Holding) -> HoldingOut:
    return HoldingOut(
        started_at=one.started_at, ended_at=one.ended_at, cpu_milli=one.cpu_milli, gpu_milli=one.gpu_milli,
        devices=one.devices, nodes=list(one.nodes),
    )  # fmt: skip


def _accounted(one: Accounted) -> AccountedOut:
    return AccountedOut(
        job=one.job, state=one.state, started_at=one.started_at, ended_at=one.ended_at, elapsed_s=one.elapsed_s,
        cpu_milli=one.cpu_milli, devices=one.devices, nodes=list(one.nodes),
    )  # fmt: skip

"""Routes of the queues: the tree with what each holds, lends and borrows, the fair shares, and setting it anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Query

from dujiang.kit.db import Tx
from dujiang.kit.errors import did_you_mean
from dujiang.kit.http import Model
from dujiang.pool.domain import LedgerFilter
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain.queue_document import differences, document_of, read_queues
from dujiang.scheduling.domain.queue_ledger import usage_of_ledger
from dujiang.scheduling.domain.queue_usage import Usage
from dujiang.scheduling.domain.queues import RESOURCES, Fault, Queue, QueueTree, QuotaLine, refusal
from dujiang.scheduling.domain.shares import FairShare
from dujiang.scheduling.service import SchedulingService
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission, Project
from dujiang.tenancy.service import Tenancy

Reader = Annotated[Caller, Depends(needs(Permission.QUEUE_READ))]
Manager = Annotated[Caller, Depends(needs(Permission.QUOTA_MANAGE))]
_ALL = 100_000


class AmountsOut(Model):
    """An amount of each resource; null: not limited, or not said."""

    gpu_milli: int | None = None
    gpu_memory_bytes: int | None = None
    cpu_milli: int | None = None
    memory_bytes: int | None = None


class LoanOut(Model):
    """What a queue uses of another's."""

    lender: str
    amounts: AmountsOut


class QueueQuotaOut(Model):
    """What a queue has of a flavor, and what became of it."""

    flavor: str
    nominal: AmountsOut
    """Its own."""
    borrowing_limit: AmountsOut
    lending_limit: AmountsOut
    guarantee: AmountsOut
    """With those of the queues below it."""
    has: AmountsOut
    """Its own and what the queues below lend it."""
    held: AmountsOut
    """By it and the queues below it."""
    borrowed: AmountsOut
    lent: AmountsOut
    available: AmountsOut
    """How much more it can have now."""
    over_guarantee: AmountsOut
    """How much of what it holds is work that may have to go for a queue below its guarantee."""
    lenders: list[LoanOut]


class ProjectShareOut(Model):
    """A project in its queue. Without fair share the figures are null."""

    project_id: str
    project: str
    share: float | None = None
    usage_gpu_s: float | None = None
    used_part: float | None = None
    factor: float | None = None
    arithmetic: str | None = None


class QueueOut(Model):
    """One queue."""

    name: str
    parent: str
    depth: int
    """0 at the top."""
    weight: float
    share: float
    """What part of everything it is due."""
    projects: list[ProjectShareOut]
    """Those that the caller sees."""
    quota: list[QueueQuotaOut]


class QueuesOut(Model):
    """The queues, each before those below it."""

    queues: list[QueueOut]
    in_no_queue: list[ProjectShareOut]
    """Projects that the caller sees and that no queue serves: they get nothing of what the queues limit."""
    fair_share_half_life_s: float | None
    """None: fair share is off."""
    fair_share_part: float
    document: dict[str, Any]
    """What `PUT` takes, with the projects that the caller sees, by name."""


class QueuesIn(Model):
    """All queues and flavors; those before are replaced."""

    document: dict[str, Any]
    """`flavors` and `queues` as docs/queues.md describes them."""


class DifferenceOut(Model):
    """One thing that differs."""

    what: str
    before: str | None
    after: str | None


class QueuesSetOut(Model):
    """What changed, or would change."""

    differences: list[DifferenceOut]
    applied: bool
    in_no_queue: list[str]
    """Projects that no queue serves then."""


class Naming(Protocol):
    """Tells which queues running jobs name; `jobs` knows."""

    async def __call__(self, tx: Tx) -> Mapping[str, str]:
        """Return them by job, without the jobs that name none."""
        ...


def router(scheduling: SchedulingService, tenancy: Tenancy, pool: PoolService, naming: Naming) -> APIRouter:
    """Return the routes of the queues."""
    routes = APIRouter(prefix="/v1", tags=["scheduling"])

    @routes.get("/queues")
    async def show_queues(caller: Reader) -> QueuesOut:
        """Show the queues: what each has, holds, borrows and lends, and how much of its share each project has used."""
        reach = caller.reach(Permission.QUEUE_READ)
        async with caller.reading() as tx:
            tree = await scheduling.queues(tx)
            projects = await tenancy.projects(tx, archived=True, limit=_ALL)
            seen = {one.id: one for one in projects if reach is None or one.id in reach}
            rows = await pool.allocations(tx, LedgerFilter(live=True))
            clusters = {cluster.id: cluster.name for cluster in await pool.clusters(tx)}
            shares = await scheduling.shares(tx, tree, rows)
            named = await naming(tx) if tree else {}
        active = {one.id for one in projects if one.archived_at is None}
        usage = usage_of_ledger(tree, rows, clusters, named)
        settings = scheduling.settings
        names = {one.id: one.name for one in projects}
        return QueuesOut(
            queues=[_queue(usage, depth, queue, shares, seen) for depth, queue in tree.ordered()],
            in_no_queue=[_project(seen[one], shares) for one in _in_no_queue(tree, seen.keys() & active)],
            fair_share_half_life_s=settings.fair_share_half_life_s or None,
            fair_share_part=settings.fair_share_part,
            document=document_of(_renamed(tree, names, None if reach is None else seen)),
        )

    @routes.put("/queues")
    async def set_queues(
        caller: Manager,
        body: QueuesIn,
        dry_run: Annotated[bool, Query(description="Only say what would change.")] = False,
    ) -> QueuesSetOut:
        """Put these queues in the place of those before; what runs already goes on."""
        async with caller.transaction() as tx:
            projects = await tenancy.projects(tx, archived=True, limit=_ALL)
            names = {one.id: one.name for one in projects}
            tree = _identified(read_queues(body.document), projects)
            before = await scheduling.queues(tx)
            changed = [
                DifferenceOut(what=one.what, before=one.before, after=one.after)
                for one in differences(_renamed(before, names), _renamed(tree, names))
            ]
            if not dry_run:
                await scheduling.set_queues(tx, tree)
        missing = _in_no_queue(tree, {one.id for one in projects if one.archived_at is None})
        return QueuesSetOut(differences=changed, applied=not dry_run, in_no_queue=sorted(names[one] for one in missing))

    return routes


def _in_no_queue(tree: QueueTree, project_ids: Collection[str]) -> list[str]:
    """Return the projects that no queue serves, where there are queues."""
    return sorted(one for one in project_ids if tree and not tree.queue_of(one))


def _identified(tree: QueueTree, projects: Sequence[Project]) -> QueueTree:
    """Return the tree with ids in the place of names.

    Raises:
        BadQueues: there is no such project, or two queues name the same one.
    """
    ids = {one.name: one.id for one in projects} | {one.id: one.id for one in projects}
    wrong = [
        Fault(
            ("queues", at, field, number), f'There is no project "{ref}".',
            did_you_mean(ref, ids).strip() or "`dujiang projects` lists them.",
        )
        for at, queue in enumerate(tree.queues)
        for field, refs in (("projects", queue.projects), ("guests", queue.guests))
        for number, ref in enumerate(refs) if ref not in ids
    ]  # fmt: skip
    if wrong:
        raise refusal(wrong)
    return _renamed(tree, ids)


def _renamed(tree: QueueTree, names: Mapping[str, str], only: Collection[str] | None = None) -> QueueTree:
    """Return the tree with other words for its projects, and only those projects."""

    def words(projects: Sequence[str]) -> tuple[str, ...]:
        return tuple(names.get(one, one) for one in projects if only is None or one in only)

    queues = [replace(one, projects=words(one.projects), guests=words(one.guests)) for one in tree.queues]
    return QueueTree(queues, tree.flavors)


def _queue(
    usage: Usage, depth: int, queue: Queue, shares: Mapping[str, FairShare], seen: Mapping[str, Project]
) -> QueueOut:
    tree = usage.tree
    served = sorted((one for one in seen.values() if tree.queue_of(one.id) == queue.name), key=lambda one: one.name)
    served = [one for one in served if one.archived_at is None or one.id in queue.projects]
    return QueueOut(
        name=queue.name, parent=queue.parent, depth=depth, weight=queue.weight, share=tree.share_of[queue.name],
        projects=[_project(one, shares) for one in served],
        quota=[one for flavor in tree.flavors if (one := _quota(usage, queue, flavor.name)) is not None],
    )  # fmt: skip


def _quota(usage: Usage, queue: Queue, flavor: str) -> QueueQuotaOut | None:
    """Return what a queue has of a flavor; None when it has nothing to do with it."""
    tree = usage.tree
    line = next((one for one in queue.lines if one.flavor == flavor), None)
    cell = tree.cell(tree.queue_at[queue.name], tree.flavor_at[flavor])
    held, has = usage.held(queue.name, flavor), tree.subtree[cell : cell + 4]
    if line is None and not any(held) and not any(has):
        return None
    limited = tree.limited(flavor)

    def told(amounts: Sequence[int | None]) -> AmountsOut:
        """Leave out what is not limited."""
        named = zip(RESOURCES, amounts, limited, strict=True)
        return AmountsOut(**{name: value for name, value, counts in named if counts})

    line = line or QuotaLine(flavor)
    return QueueQuotaOut(
        flavor=flavor, nominal=told(line.nominal), borrowing_limit=told(line.borrowing_limit),
        lending_limit=told(line.lending_limit), guarantee=told(tree.guarantee[cell : cell + 4]), has=told(has),
        held=AmountsOut(**dict(zip(RESOURCES, held, strict=True))), borrowed=told(usage.borrowed(queue.name, flavor)),
        lent=told(usage.lent(queue.name, flavor)), available=told(usage.available(queue.name, flavor)),
        over_guarantee=told(usage.over_guarantee(queue.name, flavor)),
        lenders=[LoanOut(lender=each.lender, amounts=told(each.amounts)) for each in usage.lenders(queue.name, flavor)],
    )  # fmt: skip


def _project(project: Project, shares: Mapping[str, FairShare]) -> ProjectShareOut:
    share = shares.get(project.id)
    if share is None:
        return ProjectShareOut(project_id=project.id, project=project.name)
    return ProjectShareOut(
        project_id=project.id, project=project.name, share=share.share, usage_gpu_s=share.usage_gpu_s,
        used_part=share.used_part, factor=share.factor, arithmetic=share.arithmetic,
    )  # fmt: skip

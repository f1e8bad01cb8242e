"""Routes that look without touching: the scheduler's snapshot, and what would become of a job."""

from __future__ import annotations

import gzip
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from dujiang.jobs.looking import Live
from dujiang.jobs.schemas import SubmitIn
from dujiang.jobs.service import JobService
from dujiang.jobs.spec import read
from dujiang.jobs.trying import PlaceIs, Trial, Trials
from dujiang.kit.http import Model
from dujiang.scheduling.domain import Start
from dujiang.scheduling.domain.deadlines import Promise
from dujiang.scheduling.domain.explaining import in_the_way
from dujiang.scheduling.domain.forecast import Unknown
from dujiang.scheduling.domain.saved import dump
from dujiang.tenancy.access import JOURNALED, Caller, needs
from dujiang.tenancy.domain import Permission, Project
from dujiang.tenancy.service import Tenancy

Submitter = Annotated[Caller, Depends(needs(Permission.JOB_SUBMIT))]
Operator = Annotated[Caller, Depends(needs(Permission.POOL_OPERATE))]
_LEVEL = 5
"""Of gzip: a thirtieth of the size at a tenth of the time that writing takes."""


class RankOut(Model):
    """Where one process of a job goes."""

    rank: int
    node: str
    devices: list[str]
    gpu_milli: int


class PlaceOut(Model):
    """Where a job goes."""

    cluster: str
    ranks: list[RankOut]


class WhyNotOut(Model):
    """Why it would not start now."""

    reason: str
    detail: str
    blocking: str
    position: int
    """In the queue of those that wait, 1 is the first."""
    earliest: datetime | None
    """Its reserved start."""
    suggestion: str
    """The smallest change with which it would start now."""
    advice: str


class ExpectedOut(Model):
    """When it would start, by a plan of the future."""

    at: datetime | None
    after: datetime | None
    """It would not start yet then; null when `at` is exact."""
    is_certain: bool
    """It rests on time limits alone."""
    unknown: Unknown | None
    """Why it cannot be told."""


class PricedPartOut(Model):
    """One line of a price."""

    sku_id: str
    resource: str
    vendor: str
    model: str
    quantity: str
    unit: str
    unit_price: str
    per_hour: str


class PriceOut(Model):
    """What it would cost, by the price list, in the place that is told."""

    currency: str
    per_hour: str
    total: str | None
    """To its time limit; null when it has none."""
    lines: list[PricedPartOut]
    unpriced: list[str]
    simulated: bool
    """The place is on simulated nodes, whose bill is kept apart."""


class RentOut(Model):
    """What a place on a rented cluster is estimated to cost the site, by the list price of the cluster."""

    per_hour: str
    total: str
    """At most, to its time limit."""
    currency: str
    budget_left: str
    """Of the day, after it."""


class DeadlineOut(Model):
    """Whether its deadline can be promised."""

    at: datetime
    is_kept: bool
    earliest: datetime | None
    """The earliest that could be promised instead; null when it is kept, or when none could."""
    detail: str
    """Why it cannot be promised; empty when it can."""


class DryRunOut(Model):
    """What would become of a job."""

    name: str
    project: str
    project_id: str
    starts_now: bool
    place: PlaceOut | None
    """Null when no open node could take it."""
    place_is: PlaceIs
    waits: WhyNotOut | None
    expected: ExpectedOut | None
    time_limit_s: Annotated[float | None, Field(description="Of one attempt.")]
    price: PriceOut | None
    rent: Annotated[RentOut | None, Field(description="What its rented cluster costs the site, when it bursts there.")]
    deadline: DeadlineOut | None


def router(jobs: JobService, tenancy: Tenancy, *, live: Live, trials: Trials) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/jobs/dry-run", tags=["jobs"])
    async def try_job(caller: Submitter, body: SubmitIn) -> DryRunOut:
        """Say where, when and at what price a job would start, or why it would not; it is not submitted.

        What could never run is refused, as when it is submitted.
        """
        spec = read(body.spec)
        async with caller.reading() as tx:
            project = await tenancy.project_for(tx, caller.principal, spec.project, Permission.JOB_SUBMIT, active=True)
            draft = await jobs.draft(tx, spec, project_id=project.id, submitted_by=caller.principal.user_id)
        trial = await trials.run(draft)
        caller.request.scope[JOURNALED] = True  # it changes nothing: a record of each question would be the journal
        due = draft.spec.deadline.moment(draft.created_at) if draft.spec.deadline else None
        return _out(draft.name, project, draft.spec.time_limit_s, due, trial)

    @routes.get(
        "/snapshot", tags=["scheduling"], response_class=Response,
        responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
    )  # fmt: skip
    async def save_snapshot(caller: Operator) -> Response:
        """Give everything that the scheduler looks at, as of now, for `dujiang explain JOB --snapshot FILE`."""
        seen, headers = await live.look(), {"Vary": "Accept-Encoding"}
        if "gzip" not in caller.request.headers.get("accept-encoding", ""):
            body = await live.work(lambda: dump(seen.snapshot, seen.now))
            return Response(body, media_type="application/json", headers=headers)
        body = await live.work(lambda: gzip.compress(dump(seen.snapshot, seen.now), _LEVEL))
        return Response(body, media_type="application/json", headers={**headers, "Content-Encoding": "gzip"})

    return routes


def _out(name: str, project: Project, limit_s: float | None, due: datetime | None, trial: Trial) -> DryRunOut:
    wait, expected = trial.answer.wait, trial.answer.expected
    waits = None
    if wait is not None:
        waits = WhyNotOut(
            reason=str(wait.reason), detail=wait.sentence, blocking=in_the_way(wait), position=wait.position,
            earliest=wait.earliest, suggestion=wait.change.sentence if wait.change else "", advice=wait.advice,
        )  # fmt: skip
    return DryRunOut(
        name=name, project=project.name, project_id=project.id, starts_now=trial.answer.start is not None,
        place=_place(trial.place) if trial.place else None, place_is=trial.place_is, waits=waits,
        expected=ExpectedOut.model_validate(expected) if expected else None, time_limit_s=limit_s,
        price=PriceOut.model_validate(trial.price) if trial.price else None,
        rent=_rent(trial.place) if trial.place else None,
        deadline=_deadline(due, trial.promise) if due and trial.promise else None,
    )  # fmt: skip


def _rent(place: Start) -> RentOut | None:
    rent = place.rent
    if rent is None:
        return None
    return RentOut(
        per_hour=f"{rent.per_hour:f}", total=f"{rent.total:f}", currency=rent.currency, budget_left=f"{rent.left:f}"
    )


def _deadline(due: datetime, promise: Promise) -> DeadlineOut:
    detail = "" if promise.is_kept else promise.sentence(due)
    return DeadlineOut(at=due, is_kept=promise.is_kept, earliest=promise.earliest, detail=detail)


def _place(start: Start) -> PlaceOut:
    ranks = [
        RankOut(
            rank=rank.rank, node=rank.node, devices=[share.name for share in rank.devices],
            gpu_milli=sum(share.gpu_milli for share in rank.devices),
        ) for rank in start.ranks
    ]  # fmt: skip
    return PlaceOut(cluster=start.cluster, ranks=ranks)

"""Routes of the metrics of jobs: read them, and report them over HTTP.

Which project a job is of is for `jobs` to say, which stands to the left: it is handed in.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Depends, Query
from pydantic import Field, FiniteFloat
from starlette.responses import Response

from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid, NotFound
from dujiang.kit.http import Model, Moment
from dujiang.telemetry.domain import LARGEST_STEP, LONGEST_NAME, FlagKind, Point, Special, clean_name, special_of
from dujiang.telemetry.service import MOST_SHOWN, Curve, Telemetry
from dujiang.telemetry.store import Series
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission

MOST_POSTED = 1000
_Reader = Annotated[Caller, Depends(needs(Permission.JOB_READ))]
_Reporter = Annotated[Caller, Depends(needs(Permission.JOB_SUBMIT))]


@dataclass(frozen=True, slots=True)
class JobPlace:
    """What a route must know of a job."""

    project_id: str
    attempt: int
    """Number of its latest attempt, 0 before the first."""


class FindJob(Protocol):
    """Says where a job belongs; `jobs` does."""

    def __call__(self, tx: Tx, job_id: str) -> Awaitable[JobPlace | None]:
        """Return the job's place, or None when there is no such job."""
        ...


class MetricOut(Model):
    """A metric as its latest attempt reports it."""

    name: str
    attempt: int
    step: int
    value: float | None
    """Null when `special` says what it is instead."""
    special: Special | None
    at: datetime
    points: int
    specials: int
    """How many NaN and infinite values were reported."""


class PointOut(Model):
    """One point of a curve."""

    attempt: int
    step: int
    value: float | None
    special: Special | None
    at: datetime


class FlagOut(Model):
    """Something unusual in a curve."""

    kind: FlagKind
    step: int
    sentence: str


class CurveOut(Model):
    """A metric over the steps, attempts joined."""

    name: str
    points: list[PointOut]
    flags: list[FlagOut]


class MetricsOut(Model):
    """The metrics of a job."""

    job_id: str
    metrics: list[MetricOut]
    series: list[CurveOut]
    """Of the names that were asked for."""


class PointIn(Model):
    """One value to report."""

    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    step: int = Field(ge=-LARGEST_STEP, le=LARGEST_STEP, strict=True)
    value: FiniteFloat | Literal["nan", "inf", "-inf"]
    at: Moment | None = None


class MetricsIn(Model):
    """Values to report."""

    points: list[PointIn] = Field(min_length=1, max_length=MOST_POSTED)
    attempt: int | None = Field(default=None, ge=1, le=1_000_000, strict=True)
    """The attempt that reports (`DUJIANG_ATTEMPT`); the latest one where none is named."""


class RecordedOut(Model):
    """What became of what was reported."""

    kept: int
    dropped: int
    """Of metrics beyond the limit of names of one attempt."""


def router(telemetry: Telemetry, find_job: FindJob) -> APIRouter:
    """Return the routes of job metrics."""
    routes = APIRouter(prefix="/v1", tags=["metrics"])

    @routes.get("/jobs/{job_id}/metrics")
    async def show_metrics(
        caller: _Reader,
        job_id: str,
        name: Annotated[
            list[str] | None, Query(max_length=50, description="Return the curve of each of these metrics.")
        ] = None,
        attempt: Annotated[int | None, Query(ge=1, le=1_000_000, description="Of this attempt alone.")] = None,
        max_points: Annotated[int, Query(ge=2, le=MOST_SHOWN, description="Points of one curve.")] = 500,
    ) -> MetricsOut:
        """Show the latest value of every metric of a job, and the curves of those that are named."""
        async with caller.reading() as tx:
            await _reach(caller, tx, find_job, job_id, Permission.JOB_READ)
            latest = await telemetry.latest(tx, job_id)
            curves = [
                await telemetry.curve(tx, job_id, one, attempt=attempt, most=max_points)
                for one in dict.fromkeys(name or ())
            ]
        return MetricsOut(
            job_id=job_id,
            metrics=[_metric_out(one) for one in latest],
            series=[_curve_out(one) for one in curves if one],
        )

    @routes.post("/jobs/{job_id}/metrics", status_code=201, response_model=RecordedOut)
    async def report_metrics(caller: _Reporter, job_id: str, body: MetricsIn) -> Response:
        """Report values of a job's metrics; the same step again replaces its value."""

        async def make(tx: Tx) -> RecordedOut:
            place = await _reach(caller, tx, find_job, job_id, Permission.JOB_SUBMIT)
            attempt = body.attempt or place.attempt
            if not 1 <= attempt <= place.attempt:
                raise Invalid(f"The job has had {place.attempt} attempts; name one of them.", attempt=attempt)
            recorded = await telemetry.record(tx, job_id, attempt, [_point(one) for one in body.points])
            return RecordedOut(kept=recorded.kept, dropped=recorded.dropped)

        return await caller.once(make)

    return routes


async def _reach(caller: Caller, tx: Tx, find_job: FindJob, job_id: str, permission: Permission) -> JobPlace:
    """Return the job's place if the caller may do this with it.

    Raises:
        NotFound: there is no such job, or the caller may not know of it.
        Forbidden: the caller sees the job and may not do this.
    """
    place = await find_job(tx, job_id)
    if place is None or not caller.may(Permission.JOB_READ, place.project_id):
        raise NotFound("There is no such job; `dujiang ps --all` lists those you can see.", job=job_id[:64])
    caller.require(permission, place.project_id)
    return place


def _point(body: PointIn) -> Point:
    name = clean_name(body.name)
    if name is None:
        raise Invalid("A metric's name has letters, digits, spaces and _ . / @ -, and begins with one of the first.")
    return Point(name, body.step, float(body.value), body.at and _utc(body.at))


def _utc(at: datetime) -> datetime:
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError as error:
        raise Invalid("That time is outside the calendar.") from error


def _metric_out(one: Series) -> MetricOut:
    special = special_of(one.last_value)
    return MetricOut(
        name=one.name, attempt=one.attempt, step=one.last_step, value=None if special else one.last_value,
        special=special, at=one.last_at, points=one.points, specials=one.specials,
    )  # fmt: skip


def _curve_out(curve: Curve) -> CurveOut:
    return CurveOut(
        name=curve.name,
        points=[
            PointOut(
                attempt=one.attempt, step=one.step, value=None if (special := special_of(one.value)) else one.value,
                special=special, at=one.at,
            )
            for one in curve.points
        ],
        flags=[FlagOut(kind=flag.kind, step=flag.step, sentence=flag.sentence) for flag in curve.flags],
    )  # fmt: skip

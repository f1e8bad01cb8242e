"""The route of moves of running work: what was found last."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends

from dujiang.jobs import live_store, move_store, store
from dujiang.jobs.loop.defragmenting import HOUR
from dujiang.kit.http import Model
from dujiang.scheduling.domain import StopWhy
from dujiang.scheduling.settings import SchedulingSettings
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission

Operator = Annotated[Caller, Depends(needs(Permission.POOL_OPERATE))]


class MovePlaceOut(Model):
    """Where a rank is, or could go."""

    node: str
    devices: list[str]
    gpu_milli: int


class MoveOut(Model):
    """One rank of a job that could go elsewhere."""

    job_id: str
    job_name: str
    """Empty when the job is gone."""
    rank: int
    cluster: str
    source: MovePlaceOut
    target: MovePlaceOut
    """Where there was room for it. Where a job that is stopped goes is the choice of the plan that starts it again."""
    whole_devices: int
    """How many more devices would be wholly free; negative when fewer."""
    stranded_milli: int
    """How much more of what is free the next job could use, in thousandths of a device."""
    cost_device_s: float
    """What it has done since it saved itself, in device-seconds."""
    is_stopped: bool
    """It was stopped for it."""
    why_not: str
    """Why it was not."""


class MovesOut(Model):
    """What the latest look at running work found."""

    defragment: Literal["off", "advise", "act"]
    """What is set."""
    at: datetime | None
    """When; null when nobody has looked yet."""
    waiting: int
    """Jobs that waited for whole devices."""
    movable: int
    """Jobs that saved themselves shortly before, and would go on."""
    moved_this_hour: int
    most_moves_hourly: int
    moves: list[MoveOut]


def router(settings: SchedulingSettings) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["scheduling"])

    @routes.get("/moves")
    async def show_moves(caller: Operator) -> MovesOut:
        """Say which running work could make room elsewhere, what that frees and costs, and why it is not moved."""
        async with caller.reading() as tx:
            found = await move_store.get(tx) if settings.defragment != "off" else None
            moved = await live_store.stops_since(tx, tx.now - HOUR, str(StopWhy.MOVED))
            at, told = found or (None, {"waiting": 0, "movable": 0, "moves": []})
            known = await store.read_jobs(tx, {move["job_id"] for move in told["moves"]})
        names = {job_id: job.name for job_id, job in known.items()}
        moves = [MoveOut(**move, job_name=names.get(move["job_id"], "")) for move in told["moves"]]
        return MovesOut(
            defragment=settings.defragment, at=at, waiting=told["waiting"], movable=told["movable"],
            moved_this_hour=moved, most_moves_hourly=settings.most_moves_hourly, moves=moves,
        )  # fmt: skip

    return routes

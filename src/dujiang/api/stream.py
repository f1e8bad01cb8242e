"""The live stream of everything that happens and that the caller may know of."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response, StreamingResponse

from dujiang.kit.clock import Clock
from dujiang.kit.db import Database
from dujiang.kit.follow import follow, last_seen
from dujiang.kit.http import INT64_MAX
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission

_Reader = Annotated[Caller, Depends(needs(Permission.EVENTS_READ))]


def router(db: Database, clock: Clock) -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/v1", tags=["platform"])

    @routes.get(
        "/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def follow_events(
        caller: _Reader,
        after: Annotated[int | None, Query(ge=0, le=INT64_MAX, description="Number of the last one known.")] = None,
        type: Annotated[list[str] | None, Query(max_length=32, description="Only of these types.")] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Stream what happens, from now on or from behind a record; for members, in their own projects."""
        reach = caller.reach(Permission.EVENTS_READ)
        events = follow(
            db, clock, after=last_seen(last_event_id, after), project_ids=None if reach is None else sorted(reach),
            types=type,
        )  # fmt: skip
        return caller.stream(events)

    return routes

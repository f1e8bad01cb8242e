"""Assembly of the HTTP API: routers in, one application out. It holds no rule of any context.

Built by `bootstrap`, which has made the routers. A route without a door that is not listed in `PUBLIC` stops the start:
forgetting to guard a route must not be possible.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from sqlalchemy import text
from starlette.responses import JSONResponse, PlainTextResponse, Response

import dujiang
from dujiang.api import problems
from dujiang.api.body import MAX_BODY_BYTES, BodyGuard
from dujiang.api.edge import Edge
from dujiang.api.openapi import describe
from dujiang.kit.db import Database
from dujiang.kit.errors import DujiangError, Unavailable
from dujiang.kit.ids import Ids
from dujiang.kit.metrics import Metrics
from dujiang.tenancy.access import Door, permission_of
from dujiang.tenancy.domain import Permission

PUBLIC: Final = frozenset(
    {
        ("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/healthz"), ("GET", "/readyz"),
        ("GET", "/metrics"), ("POST", "/v1/login"),
    }
)  # fmt: skip
"""Routes that anybody may call; `/metrics` itself asks callers from elsewhere for a token."""

Check = Callable[[], Awaitable[None]]
READY_WITHIN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Exposed:
    """A route as the world sees it."""

    method: str
    path: str
    name: str
    permission: Permission | None


def create_app(
    routers: Sequence[APIRouter],
    *,
    door: Door,
    metrics: Metrics,
    ids: Ids,
    checks: Mapping[str, Check] | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    uploads: Sequence[str] = (),
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        routers: of the contexts; their routes are added as they are.
        door: lets callers in.
        metrics: counts requests, and is what `/metrics` shows.
        ids: names requests that bring no `X-Request-Id`.
        checks: what `/readyz` asks besides the database, by name; a check raises when it is not ready.
        max_body_bytes: larger bodies are refused with 413.
        uploads: path prefixes whose bodies may be larger; their routes count for themselves.
        lifespan: what starts and stops with the application.

    Raises:
        ValueError: a route has no door and is not listed as public, or two routes have one name.
    """
    app = FastAPI(
        title="Dujiang", version=dujiang.__version__, docs_url=None, redoc_url=None, openapi_url=None,
        redirect_slashes=False, lifespan=lifespan, separate_input_output_schemas=False,
    )  # fmt: skip
    app.state.door = door
    _add_own_routes(app, door, metrics, {"database": _database_answers(door.db), **(checks or {})})
    for router in routers:
        app.router.routes.extend(router.routes)
    _check_routes(app)
    problems.install(app)
    app.add_middleware(BodyGuard, limit_bytes=max_body_bytes, unlimited=uploads)
    app.add_middleware(Edge, door=door, metrics=metrics, new_id=lambda: ids.new("req"))
    app.openapi = lambda: _once(app)  # type: ignore[method-assign]
    return app


def exposed(app: FastAPI) -> list[Exposed]:
    """Return every route with the permission it asks for, by path."""
    found = [
        Exposed(method, route.path, route.name, permission_of(getattr(route, "dependant", None)))
        for route in _routes(app)
        for method in route.methods or ()
    ]
    return sorted(found, key=lambda one: (one.path, one.method))


def _routes(app: FastAPI) -> list[APIRoute]:
    return [route for route in app.routes if isinstance(route, APIRoute)]


def _check_routes(app: FastAPI) -> None:
    strange = [route for route in app.routes if not isinstance(route, APIRoute)]
    if strange:
        raise ValueError(f"only plain routes can be guarded and counted; found {strange}")
    open_doors = [
        f"{one.method} {one.path}"
        for one in exposed(app)
        if one.permission is None and (one.method, one.path) not in PUBLIC
    ]
    if open_doors:
        raise ValueError(f"routes without a door: {', '.join(open_doors)}")
    names: dict[str, str] = {}
    for route in _routes(app):
        if names.setdefault(route.name, route.path_format) != route.path_format:
            raise ValueError(f"two routes are named {route.name}: {names[route.name]} and {route.path_format}")
        route.operation_id = route.unique_id = route.name


def _once(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = describe(app)
    return app.openapi_schema


def _add_own_routes(app: FastAPI, door: Door, metrics: Metrics, checks: Mapping[str, Check]) -> None:
    @app.get("/", include_in_schema=False)
    async def root() -> dict[str, str]:
        return {"name": "Dujiang", "version": dujiang.__version__, "openapi": "/openapi.json"}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return PlainTextResponse("The API is described by /openapi.json (OpenAPI 3.1); any viewer can show it.\n")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(_once(app))

    @app.get("/healthz", tags=["platform"])
    async def is_alive() -> dict[str, str]:
        """Say that the process serves."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["platform"], response_model=dict[str, Any])
    async def is_ready() -> Response:
        """Say whether everything that requests need answers."""
        answers = await asyncio.gather(*(_ask(check) for check in checks.values()))
        failing = {name: why for name, why in zip(checks, answers, strict=True) if why is not None}
        if door.closing.is_set():
            failing["platform"] = "shutting down"
        if failing:
            raise Unavailable(f"Not ready: {', '.join(failing)}.", failing=failing)
        return JSONResponse({"status": "ready", "checks": sorted(checks)})

    @app.get("/metrics", tags=["platform"], response_class=PlainTextResponse)
    async def export_metrics(request: Request) -> Response:
        """Show the platform's own figures in Prometheus form; from elsewhere than this machine, with a token."""
        if not _is_local(request):
            (await door.principal(request.scope)).require(Permission.POOL_READ)
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _is_local(request: Request) -> bool:
    if request.client is None or "x-forwarded-for" in request.headers or "forwarded" in request.headers:
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


async def _ask(check: Check) -> str | None:
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            await check()
    except TimeoutError:
        return f"no answer within {READY_WITHIN_S:g} s"
    except DujiangError as error:
        return error.sentence
    except Exception as error:  # a check may fail in any way; that it did is the answer
        return f"{type(error).__name__}: {error}"[:200]
    return None


def _database_answers(db: Database) -> Check:
    async def check() -> None:
        async with db.reading() as tx:
            await tx.connection.execute(text("SELECT 1"))

    return check

"""Routes of a world over HTTP, with people of each kind and two projects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from dujiang.kit.errors import DujiangError, Unauthenticated
from dujiang.kit.http import problem_response
from dujiang.tenancy.access import Door
from dujiang.tenancy.domain import Principal, Role
from dujiang.tenancy.service import Tenancy
from tests.pool.worlds import World


class Tokens:
    """Lets in who names themselves."""

    def __init__(self, people: dict[str, Principal]) -> None:
        self._people = people

    async def authenticate(self, token: str) -> Principal:
        """Return the person of that name."""
        if token not in self._people:
            raise Unauthenticated("Nobody.")
        return self._people[token]


@asynccontextmanager
async def serving(w: World, routes: Callable[[Tenancy], APIRouter]) -> AsyncIterator[httpx.AsyncClient]:
    """Serve routes to operator, manager, auditor, a member of project a, and a stranger, who is in project b."""
    tenancy = Tenancy(db=w.db, clock=w.clock, ids=w.ids)
    async with w.db.transaction() as tx:
        for name in ("a", "b"):
            w.projects[name] = (await tenancy.create_project(tx, name=name)).id
    people = {
        "operator": Principal("usr_o", "olga", Role.OPERATOR),
        "manager": Principal("usr_g", "gina", Role.MANAGER),
        "auditor": Principal("usr_d", "dora", Role.AUDITOR),
        "member": Principal("usr_m", "max", Role.MEMBER, frozenset({w.projects["a"]})),
        "stranger": Principal("usr_s", "sue", Role.MEMBER, frozenset({w.projects["b"]})),
    }
    app = FastAPI()
    app.state.door = Door(w.db, Tokens(people), b"secret")
    app.include_router(routes(tenancy))

    @app.exception_handler(DujiangError)
    async def render(_request: Request, error: DujiangError) -> Response:
        return problem_response(error)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        yield client


def as_(name: str) -> dict[str, str]:
    """Return the headers of who asks."""
    return {"Authorization": f"Bearer {name}"}

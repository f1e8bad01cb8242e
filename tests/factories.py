"""Builders that tests of several contexts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from argon2 import PasswordHasher
from fastapi import APIRouter, FastAPI

from dujiang.api.app import create_app
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.kit.metrics import Metrics
from dujiang.tenancy.access import Door
from dujiang.tenancy.api import router as tenancy_router
from dujiang.tenancy.audit import Audit
from dujiang.tenancy.credentials import Passwords
from dujiang.tenancy.domain import Principal, Role
from dujiang.tenancy.service import Tenancy

FAST_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def a_principal(role: Role = Role.MEMBER, *projects: str, name: str = "someone") -> Principal:
    """Return a caller of that role, a member of those projects."""
    return Principal("usr_" + "0" * 26, name, role, frozenset(projects))


def a_tenancy(database: Database, clock: Clock, ids: Ids) -> Tenancy:
    """Return the tenancy service with a hash cheap enough for tests."""
    return Tenancy(db=database, clock=clock, ids=ids, passwords=Passwords(FAST_HASHER))


@dataclass(slots=True)
class Platform:
    """The API of a scratch database, with one user of each role; the member belongs to `own`, nobody to `other`."""

    database: Database
    tenancy: Tenancy
    door: Door
    metrics: Metrics
    app: FastAPI
    projects: dict[str, str] = field(default_factory=dict)
    """Ids by name: `own` and `other`."""
    users: dict[Role, str] = field(default_factory=dict)
    tokens: dict[Role, str] = field(default_factory=dict)

    def client(self, role: Role | None = Role.ADMIN, *, peer: str = "127.0.0.1") -> httpx.AsyncClient:
        """Return a client signed in as the user of that role, or as nobody."""
        headers = {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}
        transport = httpx.ASGITransport(app=self.app, client=(peer, 4242), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://dujiang", headers=headers)


async def a_platform(
    database: Database, clock: Clock, ids: Ids, *, routers: Sequence[APIRouter] = (), max_body_bytes: int = 100_000
) -> Platform:
    """Build the application with the routes of tenancy and those given, and one user of each role."""
    tenancy, metrics = a_tenancy(database, clock, ids), Metrics()
    door = Door(database, tenancy, b"a secret for tests")
    app = create_app(
        [tenancy_router(tenancy, Audit(database)), *routers],
        door=door, metrics=metrics, ids=ids, max_body_bytes=max_body_bytes,
    )  # fmt: skip
    platform = Platform(database, tenancy, door, metrics, app)
    async with database.transaction() as tx:
        for name in ("own", "other"):
            platform.projects[name] = (await tenancy.create_project(tx, name=name)).id
        for role in Role:
            user = await tenancy.create_user(tx, name=f"the-{role}", role=role)
            platform.users[role] = user.id
            platform.tokens[role] = (await tenancy.make_token(tx, user.id, name="test"))[1]
        await tenancy.add_member(tx, platform.projects["own"], platform.users[Role.MEMBER])
    return platform

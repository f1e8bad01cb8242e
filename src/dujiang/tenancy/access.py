"""The door of every route: who is calling, may they, and the transaction they work in.

A route declares `caller: Annotated[Caller, Depends(needs(Permission.X))]`. The door answers 401 to nobody, 403 to a
role without the permission; whether it reaches into a given project is `caller.require(permission, project_id)`, asked
by the route once it knows the project. Which tokens are good is the `Authenticator`'s to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from dujiang.kit import idempotency
from dujiang.kit.db import Database, Tx
from dujiang.kit.errors import Unauthenticated
from dujiang.kit.http import ServerEvent, sse
from dujiang.tenancy.domain import Permission, Principal
from dujiang.tenancy.events import CallMade

Answerable = BaseModel | dict[str, Any]
MUTATING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
PRINCIPAL: Final = "dujiang.principal"
REQUEST_ID: Final = "dujiang.request_id"
JOURNALED: Final = "dujiang.journaled"
"""Members of an ASGI scope that the door, the routes and the middlewares of `api` share."""


class Authenticator(Protocol):
    """What tells whose token this is; `tenancy.service.Tenancy` does."""

    async def authenticate(self, token: str) -> Principal:
        """Return the owner of a good token.

        Raises:
            TokenRefused: unknown, expired, revoked, or its user is disabled.
        """
        ...


@dataclass(slots=True)
class Door:
    """What callers are let in with; one per application, on `app.state.door`."""

    db: Database
    authenticator: Authenticator
    secret: bytes
    """Keys the fingerprints of idempotent requests."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process shuts down, so that open streams end."""

    async def principal(self, scope: Scope) -> Principal:
        """Return who sent the request; asked once, then remembered in its scope.

        Raises:
            Unauthenticated: there is no token, or not a good one.
        """
        if (known := scope.get(PRINCIPAL)) is not None:
            return known  # type: ignore[no-any-return]
        principal = await self.authenticator.authenticate(_bearer(scope))
        scope[PRINCIPAL] = principal
        return principal


class Caller:
    """Who is calling, and the database as they may use it."""

    __slots__ = ("_door", "principal", "request")

    def __init__(self, door: Door, request: Request, principal: Principal) -> None:
        self._door, self.request, self.principal = door, request, principal

    def may(self, permission: Permission, project_id: str | None = None) -> bool:
        """Say whether the caller may do this, in that project when one is named."""
        return self.principal.may(permission, project_id)

    def require(self, permission: Permission, project_id: str | None = None) -> None:
        """Let pass who may do this; see `Principal.require`.

        Raises:
            NotFound: the caller may not even know of the project.
            Forbidden: the caller sees the project and may not do this in it.
        """
        self.principal.require(permission, project_id)

    def reach(self, permission: Permission) -> frozenset[str] | None:
        """Return the projects to which a listing is narrowed; None is every project."""
        return self.principal.reach(permission)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Tx]:
        """Open a transaction that only reads."""
        async with self._door.db.reading() as tx:
            yield tx

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """Open a transaction of this caller: the journal names them, the request and the route.

        A transaction that would leave no record writes `CallMade`, so that no mutating call goes unseen.
        """
        scope = self.request.scope
        async with self._door.db.transaction(actor=self.principal.actor, cause=cause_of(scope)) as tx:
            yield tx
            if not tx.has_events and scope["method"] in MUTATING:
                tx.emit(CallMade(subject=self.principal.user_id, method=scope["method"], route=route_of(scope)))
        scope[JOURNALED] = True

    async def once(self, make: Callable[[Tx], Awaitable[Answerable]], status_code: int = 201) -> Response:
        """Run a POST's effect in one transaction, once for each `Idempotency-Key` of this user.

        Args:
            make: does it and returns the answer, a model or JSON values in the form of one; whatever it raises undoes
                all of it, the key included.
            status_code: of the answer.

        Returns:
            The answer, or the one given before (with `Idempotency-Replayed: true`) for the same key and request.

        Raises:
            IdempotencyKeyReused: the key came with another request.
        """
        key = self.request.headers.get("idempotency-key")
        if key is None:
            async with self.transaction() as tx:
                model = await make(tx)
                body = _to_json(model)
            return _json(body, status_code)
        key, owner, print_ = idempotency.check_key(key), self.principal.user_id, await self._fingerprint()
        async with self.transaction() as tx:
            answer = await idempotency.claim(tx, owner=owner, key=key, print_=print_)
            if answer is not None:
                return _json(answer.body.encode(), answer.status, {"Idempotency-Replayed": "true"})
            model = await make(tx)
            body = _to_json(model)
            await idempotency.keep(tx, owner=owner, key=key, answer=idempotency.Answer(status_code, body.decode()))
        return _json(body, status_code)

    @property
    def closing(self) -> asyncio.Event:
        """Return what is set when the process shuts down, for answers that have no end of their own."""
        return self._door.closing

    def stream(self, events: AsyncIterable[ServerEvent], *, keepalive_s: float = 15.0) -> Response:
        """Answer with server-sent events that end when the client goes or the process shuts down."""
        return sse(events, closing=self._door.closing, keepalive_s=keepalive_s)

    async def _fingerprint(self) -> str:
        url = self.request.url
        target = f"{url.path}?{url.query}"
        return idempotency.fingerprint(self._door.secret, self.request.method, target, await self.request.body())


@dataclass(frozen=True, slots=True)
class Needs:
    """The dependency of a route that says which permission it asks for; made by `needs`."""

    permission: Permission

    async def __call__(self, request: Request) -> Caller:
        """Let the caller in.

        Raises:
            Unauthenticated: there is no token, or not a good one.
            Forbidden: the role lacks the permission.
        """
        door: Door = request.app.state.door
        principal = await door.principal(request.scope)
        principal.require(self.permission)
        return Caller(door, request, principal)


def needs(permission: Permission) -> Needs:
    """Return the dependency that lets in who holds the permission somewhere."""
    return Needs(permission)


def permission_of(dependant: Any) -> Permission | None:
    """Return the permission that a route's dependencies ask for; None for a route without a door."""
    if dependant is None:
        return None
    for dependency in dependant.dependencies:
        if isinstance(dependency.call, Needs):
            return dependency.call.permission
        if (nested := permission_of(dependency)) is not None:
            return nested
    return None


def cause_of(scope: Scope) -> str:
    """Return what the journal gives as the cause: the request's id, its method and route, at most 128 characters."""
    return f"{scope.get(REQUEST_ID, '')} {scope['method']} {route_of(scope)}"[:128]


def route_of(scope: Scope) -> str:
    """Return the template of the route that was matched (`/v1/jobs/{id}`), or an empty string."""
    return getattr(scope.get("route"), "path_format", "")


def _bearer(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer" and token.strip():
                return token.strip()  # type: ignore[no-any-return]
            break
    raise Unauthenticated("Sign in, or send `Authorization: Bearer TOKEN`; `dujiang login` gives one.")


def _to_json(answer: Answerable) -> bytes:
    if isinstance(answer, BaseModel):
        return answer.__pydantic_serializer__.to_json(answer)
    return orjson.dumps(answer, option=orjson.OPT_UTC_Z)


def _json(body: bytes, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status_code=status, media_type="application/json", headers=dict(headers or {}))

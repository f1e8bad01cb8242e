"""The tables of users, projects, memberships and tokens; rows in, domain values out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    Select,
    String,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from dujiang.kit.db import Tx
from dujiang.kit.tables import UtcMicros, metadata
from dujiang.tenancy.domain import Failures, Member, Principal, Project, Role, Token, TokenKind, User

users = Table(
    "users",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("display_name", String(200), nullable=False),
    Column("role", String(16), nullable=False),
    Column("password_hash", String(256), nullable=True),
    Column("disabled_at", UtcMicros, nullable=True),
    Column("created_at", UtcMicros, nullable=False),
)
projects = Table(
    "projects",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("archived_at", UtcMicros, nullable=True),
    Column("created_at", UtcMicros, nullable=False),
)
memberships = Table(
    "memberships",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("added_at", UtcMicros, nullable=False),
    Index(None, "user_id"),
)
tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(63), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", UtcMicros, nullable=False),
    Column("expires_at", UtcMicros, nullable=True),
    Column("last_used_at", UtcMicros, nullable=True),
    Column("revoked_at", UtcMicros, nullable=True),
)
sign_in_failures = Table(
    "sign_in_failures",
    metadata,
    Column("account", String(64), primary_key=True),  # a hash of the name given, which may be anything
    Column("failed", Integer, nullable=False),
    Column("since", UtcMicros, nullable=False, index=True),
    Column("closed_until", UtcMicros, nullable=True),
)


async def add_user(tx: Tx, user: User, password_hash: str | None) -> None:
    """Insert; a taken name raises `Conflict` at the end of the transaction's statement."""
    await tx.execute(
        insert(users).values(
            id=user.id, name=user.name, display_name=user.display_name, role=user.role, password_hash=password_hash,
            disabled_at=user.disabled_at, created_at=user.created_at,
        )
    )  # fmt: skip


async def user(tx: Tx, ref: str) -> User | None:
    """Return the user of an id or a name."""
    column = users.c.id if "_" in ref else users.c.name
    row = (await tx.execute(select(users).where(column == ref))).first()
    return _user(row) if row else None


async def password_hash(tx: Tx, user_id: str) -> str | None:
    """Return the kept hash."""
    return (await tx.execute(select(users.c.password_hash).where(users.c.id == user_id))).scalar()


async def user_page(tx: Tx, *, after: str | None, limit: int) -> list[User]:
    """Return users by name."""
    query = select(users).order_by(users.c.name).limit(limit)
    if after is not None:
        query = query.where(users.c.name > after)
    return [_user(row) for row in await tx.execute(query)]


async def names(tx: Tx, user_ids: Collection[str]) -> dict[str, str]:
    """Return the names of users by id."""
    query = select(users.c.id, users.c.name).where(users.c.id.in_(sorted(user_ids)))
    return {row.id: row.name for row in await tx.execute(query)}


async def change_user(tx: Tx, user_id: str, values: Mapping[str, Any]) -> None:
    """Update columns of a user."""
    await tx.execute(update(users).where(users.c.id == user_id).values(**values))


async def admins(tx: Tx) -> list[User]:
    """Return the enabled administrators, the oldest first; locked against change where rows can be."""
    query = (
        select(users)
        .where(users.c.role == Role.ADMIN, users.c.disabled_at.is_(None))
        .order_by(users.c.created_at, users.c.id)
        .with_for_update()
    )
    return [_user(row) for row in await tx.execute(query)]


async def add_project(tx: Tx, project: Project) -> None:
    """Insert."""
    await tx.execute(
        insert(projects).values(
            id=project.id, name=project.name, description=project.description, archived_at=project.archived_at,
            created_at=project.created_at,
        )
    )  # fmt: skip


async def project(tx: Tx, ref: str) -> Project | None:
    """Return the project of an id or a name."""
    column = projects.c.id if "_" in ref else projects.c.name
    row = (await tx.execute(select(projects).where(column == ref))).first()
    return _project(row) if row else None


async def project_page(
    tx: Tx, *, ids: Collection[str] | None, archived: bool, after: str | None, limit: int
) -> list[Project]:
    """Return projects by name, among those ids when given."""
    query = _project_page(ids is not None, archived, after is not None)
    values = {"most": limit, "ids": None if ids is None else sorted(ids), "after": after}
    return [
        _project(row)
        for row in await tx.execute(query, {name: value for name, value in values.items() if value is not None})
    ]


@cache
def _project_page(among: bool, archived: bool, later: bool) -> Select[Any]:
    query = select(projects).order_by(projects.c.name).limit(bindparam("most"))
    if among:
        query = query.where(projects.c.id.in_(bindparam("ids", expanding=True)))
    if not archived:
        query = query.where(projects.c.archived_at.is_(None))
    if later:
        query = query.where(projects.c.name > bindparam("after"))
    return query


async def change_project(tx: Tx, project_id: str, values: Mapping[str, Any]) -> None:
    """Update columns of a project."""
    await tx.execute(update(projects).where(projects.c.id == project_id).values(**values))


async def add_member(tx: Tx, project_id: str, user_id: str, at: datetime) -> bool:
    """Insert a membership; say whether it is new."""
    row = {"project_id": project_id, "user_id": user_id, "added_at": at}
    return bool((await tx.execute(_dialect(tx).insert(memberships).values(**row).on_conflict_do_nothing())).rowcount)


async def remove_member(tx: Tx, project_id: str, user_id: str) -> bool:
    """Delete a membership; say whether there was one."""
    gone = await tx.execute(
        delete(memberships).where(memberships.c.project_id == project_id, memberships.c.user_id == user_id)
    )
    return gone.rowcount > 0


async def member_page(
    tx: Tx, project_id: str, *, after: str | None = None, user_id: str | None = None, limit: int
) -> list[Member]:
    """Return the members of a project by name; only that user when given."""
    query = (
        select(users, memberships.c.added_at)
        .join(memberships, memberships.c.user_id == users.c.id)
        .where(memberships.c.project_id == project_id)
        .order_by(users.c.name)
        .limit(limit)
    )
    if after is not None:
        query = query.where(users.c.name > after)
    return [Member(row.id, row.name, row.display_name, Role(row.role), row.added_at) for row in await tx.execute(query)]


async def project_ids(tx: Tx, user_id: str) -> frozenset[str]:
    """Return the projects a user is a member of."""
    query = select(memberships.c.project_id).where(memberships.c.user_id == user_id)
    return frozenset((await tx.execute(query)).scalars())


async def add_token(tx: Tx, token: Token, digest: str) -> None:
    """Insert."""
    await tx.execute(
        insert(tokens).values(
            id=token.id, user_id=token.user_id, kind=token.kind, name=token.name, digest=digest,
            created_at=token.created_at, expires_at=token.expires_at,
        )
    )  # fmt: skip


async def token_owner(tx: Tx, token_id: str) -> tuple[Token, str, User] | None:
    """Return a token, its digest and its user."""
    query = select(tokens, *(column.label(f"u_{column.name}") for column in users.c)).join(users)
    row = (await tx.execute(query.where(tokens.c.id == token_id))).first()
    if row is None:
        return None
    owner = User(
        row.u_id, row.u_name, row.u_display_name, Role(row.u_role), row.u_password_hash is not None,
        row.u_disabled_at, row.u_created_at,
    )  # fmt: skip
    return _token(row), row.digest, owner


async def token_page(tx: Tx, user_id: str, *, after: str | None, limit: int) -> list[Token]:
    """Return the tokens of a user that are not revoked, the newest first."""
    query = select(tokens).where(tokens.c.user_id == user_id, tokens.c.revoked_at.is_(None))
    if after is not None:
        query = query.where(tokens.c.id < after)
    return [_token(row) for row in await tx.execute(query.order_by(tokens.c.id.desc()).limit(limit))]


async def touch_token(tx: Tx, token_id: str, at: datetime) -> None:
    """Note when a token was used."""
    await tx.execute(update(tokens).where(tokens.c.id == token_id).values(last_used_at=at))


async def revoke_tokens(
    tx: Tx, user_id: str, *, at: datetime, kinds: Collection[TokenKind] | None = None, token_id: str | None = None
) -> list[str]:
    """Revoke good tokens of a user, one or all, of some kinds or all; return which."""
    good = select(tokens.c.id).where(tokens.c.user_id == user_id, tokens.c.revoked_at.is_(None))
    if kinds is not None:
        good = good.where(tokens.c.kind.in_([str(kind) for kind in kinds]))
    if token_id is not None:
        good = good.where(tokens.c.id == token_id)
    ids = list((await tx.execute(good.order_by(tokens.c.id))).scalars())
    if ids:
        await tx.execute(update(tokens).where(tokens.c.id.in_(ids)).values(revoked_at=at))
    return ids


async def lapse_tokens(tx: Tx, user_id: str, kind: TokenKind, *, by: datetime) -> None:
    """Let the tokens of a kind end by that time at the latest."""
    await tx.execute(
        update(tokens)
        .where(tokens.c.user_id == user_id, tokens.c.kind == kind, tokens.c.revoked_at.is_(None))
        .where(or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > by))
        .values(expires_at=by)
    )


async def drop_ended_tokens(tx: Tx, *, before: datetime) -> int:
    """Delete tokens that ended before that time; the journal keeps that they were."""
    ended = func.coalesce(tokens.c.revoked_at, tokens.c.expires_at) < before
    return (await tx.execute(delete(tokens).where(ended))).rowcount


async def failures(tx: Tx, account: str, *, lock: bool = False) -> Failures | None:
    """Return an account's failed sign-ins; locked, others who count wait for the end of this transaction."""
    query = select(sign_in_failures).where(sign_in_failures.c.account == account)
    row = (await tx.execute(query.with_for_update() if lock else query)).first()
    return Failures(row.failed, row.since, row.closed_until) if row else None


async def lock_failures(tx: Tx, account: str) -> Failures:
    """Return an account's failed sign-ins, none at first, locked: guesses in parallel are counted one by one."""
    row = {"account": account, "failed": 0, "since": tx.now, "closed_until": None}
    await tx.execute(_dialect(tx).insert(sign_in_failures).values(**row).on_conflict_do_nothing())
    found = await failures(tx, account, lock=True)
    assert found is not None
    return found


async def keep_failures(tx: Tx, account: str, value: Failures) -> None:
    """Update an account's failed sign-ins."""
    await tx.execute(
        update(sign_in_failures)
        .where(sign_in_failures.c.account == account)
        .values(failed=value.count, since=value.since, closed_until=value.closed_until)
    )


async def clear_failures(tx: Tx, account: str) -> None:
    """Forget an account's failed sign-ins."""
    await tx.execute(delete(sign_in_failures).where(sign_in_failures.c.account == account))


async def drop_old_failures(tx: Tx, *, before: datetime) -> None:
    """Delete failures that count no longer, so that guessing at random names leaves no pile."""
    await tx.execute(delete(sign_in_failures).where(sign_in_failures.c.since < before))


async def principal(tx: Tx, owner: User, token_id: str) -> Principal:
    """Return the user as one who calls, with the memberships."""
    return Principal(owner.id, owner.name, owner.role, await project_ids(tx, owner.id), token_id)


def _dialect(tx: Tx) -> Any:
    return sqlite if tx.connection.dialect.name == "sqlite" else postgresql


def _user(row: Any) -> User:
    return User(
        row.id, row.name, row.display_name, Role(row.role), row.password_hash is not None, row.disabled_at,
        row.created_at,
    )  # fmt: skip


def _project(row: Any) -> Project:
    return Project(row.id, row.name, row.description, row.archived_at, row.created_at)


def _token(row: Any) -> Token:
    return Token(
        row.id, row.user_id, TokenKind(row.kind), row.name, row.created_at, row.expires_at, row.last_used_at,
        row.revoked_at,
    )  # fmt: skip

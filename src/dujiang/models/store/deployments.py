"""The table of deployments."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Column, ForeignKey, Index, Integer, String, Table, Text, insert, select, text, update

from dujiang.kit.db import Tx
from dujiang.kit.errors import Stale
from dujiang.kit.tables import Json, UtcMicros, metadata
from dujiang.models.domain import WATCHED, Deployment, DeploymentState, Service

deployments = Table(
    "deployments",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("project_id", String(64), nullable=False),
    Column("name", String(63), nullable=False),
    Column("model_id", String(40), ForeignKey("models.id"), nullable=False),
    Column("model", String(63), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("sentence", Text, nullable=False),
    Column("version_id", String(40), ForeignKey("model_versions.id"), nullable=False),
    Column("version", String(24), nullable=False),
    Column("digest", String(71), nullable=False),
    Column("job_id", String(40), nullable=False),
    Column("resources", Json, nullable=False),
    # What it is being moved to, whole or not at all: the same five as JSON.
    Column("next", Json, nullable=True),
    Column("url", Text, nullable=False),
    Column("created_at", UtcMicros, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("state_since", UtcMicros, nullable=False),
    Column("silent_since", UtcMicros, nullable=True),
    Column("removed_at", UtcMicros, nullable=True),
    Column("lock", Integer, nullable=False),
    Index("ix_deployments_project", "project_id", "id"),
    Index("ix_deployments_state", "state", "id"),
    # One live deployment of a name in a project.
    Index(
        "uq_deployments_live", "project_id", "name", unique=True, sqlite_where=text("removed_at IS NULL"),
        postgresql_where=text("removed_at IS NULL"),
    ),
)  # fmt: skip


async def add(tx: Tx, one: Deployment) -> None:
    """Add a deployment."""
    await tx.execute(
        insert(deployments).values(
            id=one.id, project_id=one.project_id, name=one.name, model_id=one.model_id, model=one.model,
            created_at=one.created_at, created_by=one.created_by, lock=one.lock, **_changing(one),
        )
    )  # fmt: skip


async def save(tx: Tx, one: Deployment) -> None:
    """Save what changes of a deployment; `lock` says which state of the row it was made from.

    Raises:
        Stale: the row has changed since.
    """
    done = await tx.execute(
        update(deployments)
        .where(deployments.c.id == one.id, deployments.c.lock == one.lock)
        .values(lock=one.lock + 1, **_changing(one))
    )
    if done.rowcount != 1:
        raise Stale(f'The deployment "{one.name}" was changed meanwhile; look at it again.')


async def find(
    tx: Tx, *, name: str | None = None, project_ids: Collection[str] | None = None, live: bool = True,
    before: str | None = None, limit: int = 500,
) -> list[Deployment]:  # fmt: skip
    """Return deployments, the newest first, before an identifier; live ones, or those that are gone too."""
    d = deployments.c
    query = select(deployments).order_by(d.id.desc()).limit(limit)
    if name is not None:
        query = query.where(d.name == name)
    if project_ids is not None:
        query = query.where(d.project_id.in_(sorted(project_ids)))
    if live:
        query = query.where(d.removed_at.is_(None))
    if before is not None:
        query = query.where(d.id < before)
    return [_deployment(row) for row in await tx.execute(query)]


async def by_ids(tx: Tx, ids: Sequence[str]) -> dict[str, Deployment]:
    """Return deployments by identifier; unknown ones are left out."""
    found = await tx.execute(select(deployments).where(deployments.c.id.in_(ids)))
    return {row.id: _deployment(row) for row in found}


async def watched(tx: Tx, *, after: str, limit: int) -> list[Deployment]:
    """Return deployments to which something may happen by itself, by identifier, after one."""
    d = deployments.c
    query = select(deployments).where(d.state.in_(list(WATCHED)), d.id > after).order_by(d.id).limit(limit)
    return [_deployment(row) for row in await tx.execute(query)]


async def digests(tx: Tx) -> set[str]:
    """Return the digests of the files that live deployments serve or are to serve."""
    d = deployments.c
    found: set[str] = set()
    for row in await tx.execute(select(d.digest, d.next).where(d.removed_at.is_(None))):
        found |= {row.digest, *([row.next["digest"]] if row.next else [])}
    return found


def _changing(one: Deployment) -> dict[str, Any]:
    return {
        "state": one.state, "reason": one.reason, "sentence": one.sentence, **_service_values(one.service),
        "next": _service_values(one.next) if one.next else None, "url": one.url, "state_since": one.state_since,
        "silent_since": one.silent_since, "removed_at": one.removed_at,
    }  # fmt: skip


def _service_values(service: Service) -> dict[str, Any]:
    return {
        "version_id": service.version_id, "version": service.version, "digest": service.digest,
        "job_id": service.job_id, "resources": dict(service.resources),
    }  # fmt: skip


def _deployment(row: Any) -> Deployment:
    return Deployment(
        id=row.id, project_id=row.project_id, name=row.name, model_id=row.model_id, model=row.model,
        state=DeploymentState(row.state), reason=row.reason, sentence=row.sentence,
        service=Service(row.version_id, row.version, row.digest, row.job_id, row.resources),
        created_at=row.created_at, created_by=row.created_by, state_since=row.state_since, url=row.url,
        next=Service(**row.next) if row.next else None, silent_since=row.silent_since, removed_at=row.removed_at,
        lock=row.lock,
    )  # fmt: skip

"""Tables of registered models, their versions, aliases and lineage."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    Select,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)

from dujiang.kit.db import Tx
from dujiang.kit.errors import Stale
from dujiang.kit.tables import Json, UtcMicros, metadata
from dujiang.models.domain import Lineage, Model, ModelVersion, VersionNumber, VersionState

models = Table(
    "models",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("project_id", String(64), nullable=False),
    Column("name", String(63), nullable=False),
    Column("created_at", UtcMicros, nullable=False),
    Column("created_by", String(64), nullable=False),
    UniqueConstraint("project_id", "name"),
    Index(None, "name"),
)
versions = Table(
    "model_versions",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("model_id", String(40), ForeignKey("models.id"), nullable=False),
    Column("major", Integer, nullable=False),
    Column("minor", Integer, nullable=False),
    Column("patch", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("sentence", Text, nullable=False),
    # An event that is handled twice makes one version.
    Column("job_id", String(40), nullable=False, unique=True),
    Column("attempt", Integer, nullable=False),
    Column("created_at", UtcMicros, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("digest", String(71), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("signature", Json, nullable=False),
    Column("ready_at", UtcMicros, nullable=True),
    Column("lock", Integer, nullable=False),
    UniqueConstraint("model_id", "major", "minor", "patch"),
    Index("ix_model_versions_state", "state", "id"),
)
# Apart, because it is long and no listing shows it.
lineages = Table(
    "model_lineages",
    metadata,
    Column("version_id", String(40), ForeignKey("model_versions.id"), primary_key=True),
    Column("job_name", String(63), nullable=False),
    Column("path", Text, nullable=False),
    Column("params", Json, nullable=False),
    Column("inputs", Json, nullable=False),
    Column("environment", Json, nullable=False),
)
aliases = Table(
    "model_aliases",
    metadata,
    Column("model_id", String(40), ForeignKey("models.id"), primary_key=True),
    Column("alias", String(63), primary_key=True),
    Column("version_id", String(40), ForeignKey("model_versions.id"), nullable=False),
    Column("set_at", UtcMicros, nullable=False),
    Column("set_by", String(64), nullable=False),
    Index(None, "version_id"),
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as a listing shows it."""

    model: Model
    versions: int
    latest: VersionNumber | None
    """The greatest number that is READY."""
    latest_at: datetime | None


async def find_models(
    tx: Tx, *, name: str | None = None, project_ids: Collection[str] | None = None, after: str = "", limit: int = 500
) -> list[Model]:
    """Return models in the order in which they came to be; among those projects when given."""
    query = select(models).where(models.c.id > after).order_by(models.c.id).limit(limit)
    if name is not None:
        query = query.where(models.c.name == name)
    if project_ids is not None:
        query = query.where(models.c.project_id.in_(sorted(project_ids)))
    return [_model(row) for row in await tx.execute(query)]


async def model_by_id(tx: Tx, model_id: str) -> Model | None:
    """Return a model by its identifier."""
    row = (await tx.execute(select(models).where(models.c.id == model_id))).first()
    return _model(row) if row else None


async def add_model(tx: Tx, model: Model) -> None:
    """Add a model."""
    await tx.execute(
        insert(models).values(
            id=model.id, project_id=model.project_id, name=model.name, created_at=model.created_at,
            created_by=model.created_by,
        )
    )  # fmt: skip


async def listed(tx: Tx, found: Sequence[Model]) -> list[Listed]:
    """Return models with what a listing shows of their versions."""
    ids = [model.id for model in found]
    v = versions.c
    counts = {
        row.model_id: row.total
        for row in await tx.execute(
            select(v.model_id, func.count().label("total")).where(v.model_id.in_(ids)).group_by(v.model_id)
        )
    }
    place = func.row_number().over(
        partition_by=v.model_id, order_by=(v.major.desc(), v.minor.desc(), v.patch.desc())
    ).label("place")  # fmt: skip
    ready = (
        select(v.model_id, v.major, v.minor, v.patch, v.created_at, place)
        .where(v.model_id.in_(ids), v.state == VersionState.READY)
        .subquery()
    )
    newest = {row.model_id: row for row in await tx.execute(select(ready).where(ready.c.place == 1))}
    return [
        Listed(
            model, counts.get(model.id, 0),
            VersionNumber(row.major, row.minor, row.patch) if (row := newest.get(model.id)) else None,
            row.created_at if row else None,
        )
        for model in found
    ]  # fmt: skip


async def newest_number(tx: Tx, model_id: str) -> VersionNumber | None:
    """Return the greatest number that a model has, whatever became of it."""
    v = versions.c
    query = select(v.major, v.minor, v.patch).where(v.model_id == model_id)
    row = (await tx.execute(query.order_by(v.major.desc(), v.minor.desc(), v.patch.desc()).limit(1))).first()
    return VersionNumber(row.major, row.minor, row.patch) if row else None


async def add_version(tx: Tx, version: ModelVersion, lineage: Lineage) -> None:
    """Add a version with its lineage."""
    number = version.number
    await tx.execute(
        insert(versions).values(
            id=version.id, model_id=version.model_id, major=number.major, minor=number.minor, patch=number.patch,
            job_id=version.job_id, attempt=version.attempt, created_at=version.created_at,
            created_by=version.created_by, lock=version.lock, **_changing(version),
        )
    )  # fmt: skip
    await tx.execute(insert(lineages).values(version_id=version.id, **_lineage_values(lineage)))


async def save_version(tx: Tx, version: ModelVersion, lineage: Lineage | None = None) -> ModelVersion:
    """Save what changes of a version; `lock` says which state of the row it was made from.

    Raises:
        Stale: the row has changed since.
    """
    done = await tx.execute(
        update(versions)
        .where(versions.c.id == version.id, versions.c.lock == version.lock)
        .values(lock=version.lock + 1, **_changing(version))
    )
    if done.rowcount != 1:
        raise Stale(f"{version.label} was changed meanwhile; look at it again.")
    if lineage is not None:
        await tx.execute(update(lineages).where(lineages.c.version_id == version.id).values(**_lineage_values(lineage)))
    return (await versions_by_id(tx, [version.id]))[version.id]


async def versions_by_id(tx: Tx, ids: Sequence[str]) -> dict[str, ModelVersion]:
    """Return versions by identifier; unknown ones are left out."""
    return {row.id: _version(row) for row in await tx.execute(_versions().where(versions.c.id.in_(ids)))}


async def version_of_job(tx: Tx, job_id: str) -> ModelVersion | None:
    """Return the version that a job made."""
    row = (await tx.execute(_versions().where(versions.c.job_id == job_id))).first()
    return _version(row) if row else None


async def version_by_number(tx: Tx, model_id: str, number: VersionNumber) -> ModelVersion | None:
    """Return a version of a model."""
    v = versions.c
    here = and_(v.major == number.major, v.minor == number.minor, v.patch == number.patch)
    row = (await tx.execute(_versions().where(v.model_id == model_id, here))).first()
    return _version(row) if row else None


async def version_by_alias(tx: Tx, model_id: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias names."""
    query = _versions().join(aliases, aliases.c.version_id == versions.c.id)
    row = (await tx.execute(query.where(aliases.c.model_id == model_id, aliases.c.alias == alias))).first()
    return _version(row) if row else None


async def latest_ready(tx: Tx, model_id: str) -> ModelVersion | None:
    """Return the READY version with the greatest number."""
    v = versions.c
    query = _versions().where(v.model_id == model_id, v.state == VersionState.READY)
    row = (await tx.execute(query.order_by(v.major.desc(), v.minor.desc(), v.patch.desc()).limit(1))).first()
    return _version(row) if row else None


async def version_page(
    tx: Tx, model_id: str, *, before: VersionNumber | None = None, limit: int = 500
) -> list[ModelVersion]:
    """Return versions, the greatest number first, below a number."""
    v = versions.c
    query = _versions().where(v.model_id == model_id)
    if before is not None:
        numbers = tuple_(v.major, v.minor, v.patch)
        query = query.where(numbers < tuple_(before.major, before.minor, before.patch))
    query = query.order_by(v.major.desc(), v.minor.desc(), v.patch.desc()).limit(limit)
    return [_version(row) for row in await tx.execute(query)]


async def pending_versions(tx: Tx, *, after: str = "", limit: int = 100) -> list[ModelVersion]:
    """Return versions that wait for their file, in the order in which they came to be."""
    v = versions.c
    query = _versions().where(v.state == VersionState.PENDING, v.id > after).order_by(v.id).limit(limit)
    return [_version(row) for row in await tx.execute(query)]


async def lineage_of(tx: Tx, version_id: str) -> Lineage:
    """Return what a version was made from."""
    row = (await tx.execute(select(lineages).where(lineages.c.version_id == version_id))).one()
    return Lineage(row.job_name, row.path, row.params, row.inputs, row.environment)


async def digests(tx: Tx) -> set[str]:
    """Return the digests of all stored files."""
    return set((await tx.execute(select(versions.c.digest).where(versions.c.digest != "").distinct())).scalars())


async def aliases_of(tx: Tx, version_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the aliases of versions, by name; versions without one are left out."""
    query = select(aliases.c.version_id, aliases.c.alias).where(aliases.c.version_id.in_(version_ids))
    found: dict[str, list[str]] = {}
    for row in await tx.execute(query.order_by(aliases.c.alias)):
        found.setdefault(row.version_id, []).append(row.alias)
    return found


async def alias_map(tx: Tx, model_id: str) -> dict[str, str]:
    """Return the numbers that a model's aliases name, by alias."""
    v = versions.c
    query = (
        select(aliases.c.alias, v.major, v.minor, v.patch)
        .join(versions, v.id == aliases.c.version_id)
        .where(aliases.c.model_id == model_id)
        .order_by(aliases.c.alias)
    )
    return {row.alias: str(VersionNumber(row.major, row.minor, row.patch)) for row in await tx.execute(query)}


async def write_alias(tx: Tx, model_id: str, alias: str, version_id: str, by: str) -> None:
    """Let an alias name a version."""
    values = {"version_id": version_id, "set_at": tx.now, "set_by": by}
    here = and_(aliases.c.model_id == model_id, aliases.c.alias == alias)
    done = await tx.execute(update(aliases).where(here).values(**values))
    if done.rowcount == 0:
        await tx.execute(insert(aliases).values(model_id=model_id, alias=alias, **values))


async def drop_alias(tx: Tx, model_id: str, alias: str) -> None:
    """Let an alias name nothing."""
    await tx.execute(delete(aliases).where(aliases.c.model_id == model_id, aliases.c.alias == alias))


def _versions() -> Select[Any]:
    query = select(versions, models.c.name.label("model"), models.c.project_id)
    return query.join(models, models.c.id == versions.c.model_id)


def _changing(version: ModelVersion) -> dict[str, Any]:
    return {
        "state": version.state, "reason": version.reason, "sentence": version.sentence, "digest": version.digest,
        "bytes": version.bytes, "metrics": dict(version.metrics), "signature": dict(version.signature),
        "ready_at": version.ready_at,
    }  # fmt: skip


def _lineage_values(lineage: Lineage) -> dict[str, Any]:
    return {
        "job_name": lineage.job_name, "path": lineage.path, "params": dict(lineage.params),
        "inputs": dict(lineage.inputs), "environment": dict(lineage.environment),
    }  # fmt: skip


def _model(row: Any) -> Model:
    return Model(row.id, row.project_id, row.name, row.created_at, row.created_by)


def _version(row: Any) -> ModelVersion:
    return ModelVersion(
        id=row.id, model_id=row.model_id, project_id=row.project_id, model=row.model,
        number=VersionNumber(row.major, row.minor, row.patch), state=VersionState(row.state), reason=row.reason,
        sentence=row.sentence, job_id=row.job_id, attempt=row.attempt, created_at=row.created_at,
        created_by=row.created_by, digest=row.digest, bytes=row.bytes, metrics=row.metrics, signature=row.signature,
        ready_at=row.ready_at, lock=row.lock,
    )  # fmt: skip

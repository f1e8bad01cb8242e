"""The table of quotas: rows in, domain values out."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, String, Table, delete, insert, select

from dujiang.kit.db import Tx
from dujiang.kit.tables import UtcMicros, metadata
from dujiang.scheduling.domain import UNLIMITED, Quota

quotas = Table(
    "quotas",
    metadata,
    Column("project_id", String(64), primary_key=True),
    Column("gpu_milli", BigInteger, nullable=True),
    Column("cpu_milli", BigInteger, nullable=True),
    Column("memory_bytes", BigInteger, nullable=True),
    Column("set_at", UtcMicros, nullable=False),
    CheckConstraint("gpu_milli >= 0 AND cpu_milli >= 0 AND memory_bytes >= 0", name="not_negative"),
)
_QUOTAS = select(quotas).order_by(quotas.c.project_id)


async def read_quotas(tx: Tx) -> dict[str, Quota]:
    """Return every quota that limits something, by project."""
    rows = await tx.execute(_QUOTAS)
    return {row.project_id: Quota(row.gpu_milli, row.cpu_milli, row.memory_bytes) for row in rows}


async def read_quota(tx: Tx, project_id: str) -> Quota:
    """Return the quota of one project; unlimited when none was set."""
    row = (await tx.execute(select(quotas).where(quotas.c.project_id == project_id))).first()
    return Quota(row.gpu_milli, row.cpu_milli, row.memory_bytes) if row else UNLIMITED


async def write_quota(tx: Tx, project_id: str, quota: Quota) -> None:
    """Put a quota in the place of the one before; an unlimited one has no row."""
    await tx.execute(delete(quotas).where(quotas.c.project_id == project_id))
    if quota != UNLIMITED:
        gpu, cpu, memory = quota.limits()
        await tx.execute(
            insert(quotas).values(
                project_id=project_id, gpu_milli=gpu, cpu_milli=cpu, memory_bytes=memory, set_at=tx.now
            )
        )

"""The one tree of settings, a branch for each part; read once, handed on as values.

Defaults fit one machine. Each comes from `dujiang.toml` in the home folder, from a variable such as
`DUJIANG_JOBS__LOST_AFTER_S=2m`, or from a flag of `dujiang up` (`kit.settings` has the rules).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dujiang.billing.service import BillingSettings
from dujiang.engines.local.settings import LocalSettings
from dujiang.jobs.settings import JobSettings
from dujiang.pool.domain import PoolSettings

DEFAULT_PORT = 8440


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the API listens."""

    host: str = "127.0.0.1"
    """Loopback unless set: put a proxy with TLS in front before others can reach it."""
    port: int = DEFAULT_PORT
    """0 takes a free one."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    loops: bool = True
    """Whether this process may run the loops, or only answers requests."""


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Where the state is kept."""

    url: str | None = None
    """`postgresql://USER:PASSWORD@HOST/NAME`; none is an SQLite file in the home folder."""
    durable: bool = True
    """Flush each commit to the disk (SQLite). Without it a crash of the machine can lose the last moments."""
    busy_timeout_s: float = 5.0
    """How long to wait for another program that holds the SQLite file."""


@dataclass(frozen=True, slots=True)
class ObjectSettings:
    """Where artifacts are kept."""

    url: str | None = None
    """A folder or `s3://bucket/prefix`; none is a folder in the home folder."""
    endpoint: str | None = None
    """Of an S3 service other than Amazon's."""
    access_key_id: str | None = None
    secret_access_key: str | None = None
    region: str = "us-east-1"


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How often loops run when nothing wakes them. Too often idles cores, too seldom notices late."""

    inventory_s: float = 2.0
    start_s: float = 1.0
    attempts_s: float = 1.0
    figures_s: float = 1.0
    sweep_s: float = 10.0
    outbox_s: float = 2.0
    rating_s: float = 5.0
    models_s: float = 1.0
    housekeeping_s: float = 300.0
    lease_s: float = 10.0
    """How long a silent process keeps others from the loops."""


@dataclass(frozen=True, slots=True)
class SimulatedSettings:
    """The virtual cluster of `dujiang up --simulate`."""

    fleet: str | None = None
    """NODESxDEVICES[:MODEL[@VENDOR]][:MEMORY]; none runs the local engine instead."""
    seed: int = 7
    speed: float = 1.0
    """How many times faster than real the virtual programs run."""


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Diagnosis."""

    signatures_dir: str | None = None
    """A folder of a site's own signatures, read beside those that come with the platform."""


class Settings(BaseModel):
    """All of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: ServerSettings = Field(default_factory=ServerSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    objects: ObjectSettings = Field(default_factory=ObjectSettings)
    loops: LoopSettings = Field(default_factory=LoopSettings)
    simulated: SimulatedSettings = Field(default_factory=SimulatedSettings)
    local: LocalSettings = Field(default_factory=LocalSettings)
    jobs: JobSettings = Field(default_factory=JobSettings)
    pool: PoolSettings = Field(default_factory=PoolSettings)
    billing: BillingSettings = Field(default_factory=BillingSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)

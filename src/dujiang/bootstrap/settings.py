"""The one tree of settings, a branch for each part; read once, handed on as values.

Defaults fit one machine. Each comes from `dujiang.toml` in the home folder, from a variable such as
`DUJIANG_JOBS__LOST_AFTER_S=2m`, or from a flag of `dujiang up` (`kit.settings` has the rules).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dujiang.billing.service import BillingSettings
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.local.settings import LocalSettings
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.jobs.domain import Fabric
from dujiang.jobs.settings import JobSettings
from dujiang.pool.domain import PoolSettings
from dujiang.scheduling.settings import SchedulingSettings

DEFAULT_PORT = 8440


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the API listens."""

    host: str = "127.0.0.1"
    """Loopback unless set: put a proxy with TLS in front before others can reach it."""
    port: int = DEFAULT_PORT
    """0 takes a free one."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """From which level on the log is written."""
    loops: bool = True
    """Whether this process may run the loops, or only answers requests."""
    offer_python: bool = True
    """Whether jobs on this machine find the platform's own Python, with what the examples need, first in their PATH."""


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Where the state is kept."""

    url: str | None = None
    """`postgresql://USER:PASSWORD@HOST/NAME`; none is an SQLite file in the home folder."""
    durable: bool = True
    """Flush each commit to the disk (SQLite). Without it a crash of the machine can lose the last moments."""
    busy_timeout_s: float = 5.0
    """How long to wait for another program that holds the SQLite file."""

    def __post_init__(self) -> None:
        """Refuse what no driver here speaks to; the address itself is not told, a password may be in it.

        Raises:
            ValueError: what it can be.
        """
        scheme = (self.url or "").partition(":")[0]
        if self.url is not None and scheme.partition("+")[0] not in ("postgresql", "postgres", "sqlite"):
            raise ValueError("url is written postgresql://USER:PASSWORD@HOST/NAME; leave it out for an SQLite file")


@dataclass(frozen=True, slots=True)
class ObjectSettings:
    """Where artifacts are kept."""

    url: str | None = None
    """A folder or `s3://bucket/prefix`; none is a folder in the home folder."""
    endpoint: str | None = None
    """Of an S3 service other than Amazon's."""
    access_key_id: str | None = None
    """Without it the usual AWS_* variables and instance roles are tried."""
    secret_access_key: str | None = None
    """Best given as a variable."""
    region: str = "us-east-1"
    """Of the bucket."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How often loops run when nothing wakes them. Too often idles cores, too seldom notices late."""

    inventory_s: float = 2.0
    """A look at every cluster: what there is, and what is open."""
    answers_s: float = 0.5
    """Which answers of engines are overdue (`pool.answer_within_s`)."""
    start_s: float = 1.0
    """What may start; also at each submission and each end."""
    attempts_s: float = 1.0
    """What runs; also when an engine has news."""
    figures_s: float = 1.0
    """What jobs report."""
    sweep_s: float = 10.0
    """What engines still know and nobody needs, and what runs and is nobody's."""
    schedules_s: float = 1.0
    """Which schedules are due."""
    outbox_s: float = 2.0
    """What happened, for those who subscribed; also after each change."""
    rating_s: float = 5.0
    """Charges for what has ended."""
    models_s: float = 1.0
    """Versions that wait for their files, and deployments."""
    housekeeping_s: float = 300.0
    """Old keys and tokens."""
    use_s: float = 15.0
    """What running jobs use of what they hold, and when they saved themselves."""
    rescore_s: float = 1200.0
    """Weights of running work by its use, and what becomes of idle work; 15 to 30 minutes suit most."""
    defragment_s: float = 600.0
    """Which running work could make room elsewhere; 5 to 15 minutes suit most."""
    gauges_s: float = 5.0
    """What `/metrics` shows of what there is now."""
    lease_s: float = 10.0
    """How long a silent process keeps others from the loops."""

    def __post_init__(self) -> None:
        """Refuse a loop that never rests.

        Raises:
            ValueError: which.
        """
        wrong = [one.name for one in fields(self) if getattr(self, one.name) <= 0]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} must be above 0")


@dataclass(frozen=True, slots=True)
class SimulatedSettings:
    """The virtual cluster of `dujiang up --simulate`."""

    fleet: str | None = None
    """NODESxDEVICES[:MODEL[@VENDOR]][:MEMORY], then how many nodes share a place: `/switch=8/rack=16/site=64`; none
    runs the local engine instead."""
    seed: int = 7
    """Of everything that virtual programs do."""
    speed: float = 1.0
    """How many times faster than real the virtual programs run."""


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Diagnosis."""

    signatures_dir: str | None = None
    """A folder of a site's own signatures, read beside those that come with the platform."""


class ClusterSettings(BaseModel):
    """On what terms a cluster works; one table `[clusters.NAME]` for each that is to differ from the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    price_per_device_hour: Decimal = Field(default=Decimal(0), ge=0, le=1_000_000)
    """List cost of one device for one hour, in the platform's currency; of clusters that fit, the cheaper is tried
    first. What is billed is set by `dujiang prices`."""
    cloud: bool = False
    """Rented by use: work goes there only where a policy lets it."""
    interruptions_per_day: float = Field(default=0.0, ge=0, le=1440)
    """How often a node is taken away (spot capacity)."""
    fabric: Fabric | None = None
    """A table `[clusters.NAME.fabric]` says what joins its nodes; its settings stand below."""
    slurm: SlurmSettings | None = None
    """A table `[clusters.NAME.slurm]` makes it a Slurm cluster; its settings stand below."""
    kubernetes: KubernetesSettings | None = None
    """A table `[clusters.NAME.kubernetes]` makes it a Kubernetes cluster; its settings stand below."""

    @field_validator("slurm")
    @classmethod
    def _lasts(cls, slurm: SlurmSettings | None) -> SlurmSettings | None:
        """Refuse times that no clock shows."""
        of = fields(slurm) if slurm is not None else ()
        times = {one.name: getattr(slurm, one.name) for one in of if one.name.endswith("_s")}
        wrong = [name for name, value_s in times.items() if value_s < 0 or (not value_s and name != "facts_lag_s")]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} must be above 0")
        return slurm


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
    scheduling: SchedulingSettings = Field(default_factory=SchedulingSettings)
    billing: BillingSettings = Field(default_factory=BillingSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)
    clusters: dict[str, ClusterSettings] = Field(default_factory=dict)
